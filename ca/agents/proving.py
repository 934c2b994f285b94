"""Claims that are good once a key is proven: the nonce goes out with the claim, and the proof lets the claimant in."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from ca.issuance.press import IssuedSvid
from citadel.errors import Reason, Unauthenticated
from citadel.possession import NONCE_BYTES, Challenge, ProvenKey, Purpose

NewNonce = Callable[[], bytes]

_REFUSED: Final = {Purpose.X509POP: Reason.X509POP_REFUSED, Purpose.REJOIN: Reason.REJOIN_REFUSED}


def new_nonce() -> bytes:
    """A nonce that nobody can guess and that never comes again."""
    return secrets.token_bytes(NONCE_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Somebody says that it holds `key`. `admit` takes the address that it comes from, and trusts that it does."""

    challenge: Challenge
    key: ProvenKey
    admit: Callable[[str], Awaitable[IssuedSvid]] = field(repr=False)

    async def proven_by(self, signature: bytes, *, origin: str) -> IssuedSvid:
        """The claimant's SVID. Raises `Unauthenticated` where the proof is none, and what `admit` refuses."""
        if not await asyncio.to_thread(self.challenge.is_met_by, signature, self.key):
            raise Unauthenticated(
                _REFUSED[self.challenge.purpose],
                f"the signature does not prove the key of {self.challenge.claimant}",
            )
        return await self.admit(origin)
