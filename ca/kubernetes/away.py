"""Whether an API server can be followed just now."""

from __future__ import annotations

from typing import Final, Protocol

from citadel.errors import CitadelError, Reason

# What is wrong with all calls, and not with one of them.
_OF_ALL: Final = frozenset(
    {Reason.KUBERNETES_UNAVAILABLE, Reason.KUBERNETES_UNTRUSTED, Reason.KUBERNETES_LOGIN_REFUSED}
)


class Follows(Protocol):
    """Follows something, as informers do."""

    @property
    def trouble(self) -> CitadelError | None:
        """Why it cannot just now."""
        ...


def is_away(*following: Follows) -> bool:
    """Whether one of these is kept from it by what would keep every call from being answered."""
    return any(each.trouble is not None and each.trouble.reason in _OF_ALL for each in following)
