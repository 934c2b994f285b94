"""Whether an API server can be followed just now."""

from __future__ import annotations

from typing import Protocol

from citadel.errors import CitadelError
from citadel.kubernetes.ports import OF_ALL


class Follows(Protocol):
    """Follows something, as informers do."""

    @property
    def trouble(self) -> CitadelError | None:
        """Why it cannot just now."""
        ...


def is_away(*following: Follows) -> bool:
    """Whether one of these is kept from it by what would keep every call from being answered."""
    return any(each.trouble is not None and each.trouble.reason in OF_ALL for each in following)
