"""The port through which certificates are asked for. The adapter that speaks to the server is `sds.link.signing`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from citadel.errors import CitadelError


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningRequest:
    """A certificate request (DER) for one entry."""

    entry_id: str
    csr: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """An answered chain (DER, leaf first, without the root), not checked yet, and what limited its lifetime."""

    chain: tuple[bytes, ...]
    lifetime_limited_by: str


class Signer(Protocol):
    """Who signs."""

    async def sign(self, requests: Sequence[SigningRequest], *, within: timedelta) -> Sequence[Signed | CitadelError]:
        """Results in the order of `requests`, a refusal of one beside the others.

        Raises a `CitadelError` where the whole batch failed: `ResourceExhausted`, or `batch_too_large`, asks for a
        smaller one; `Unavailable` also when `within` has passed.
        """
        ...
