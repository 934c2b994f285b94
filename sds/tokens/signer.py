"""The port through which tokens are asked for. The adapter that speaks to the server is `sds.link.signing`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from citadel.errors import CitadelError


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """A token for one entry, for these audiences."""

    entry_id: str
    audience: tuple[str, ...]


class TokenSigner(Protocol):
    """Who signs."""

    async def sign(self, requests: Sequence[TokenRequest], *, within: timedelta) -> Sequence[str | CitadelError]:
        """Tokens, not checked yet, in the order of `requests`; a refusal of one beside the others.

        Raises a `CitadelError` where the whole batch failed: `batch_too_large` asks for a smaller one; `Unavailable`
        also when `within` has passed.
        """
        ...
