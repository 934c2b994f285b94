"""Signing what was decided, once for each request however often its answer has to be written."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from ca.issuance.press import IssuedSvid
from ca.issuance.proven import ProvenRequest
from citadel.clock import Clock
from citadel.errors import CitadelError

_GOOD_FOR: Final = 120.0  # seconds: an API server takes no certificate that began long ago


class ProvenIssuer(Protocol):
    """Signs for identities that a platform has proved."""

    async def issue_proven(self, requests: Sequence[ProvenRequest]) -> list[IssuedSvid | CitadelError]:
        """Sign a batch; what leaves is in the ledger. Raises `Unavailable` where nothing was signed."""
        ...


@dataclass(frozen=True, slots=True)
class _Signed:
    svid: IssuedSvid
    at: float


class Signing:
    """Keeps what was signed until its request is answered: what cannot be written is not signed again each time."""

    def __init__(self, issuer: ProvenIssuer, *, clock: Clock) -> None:
        self._issuer = issuer
        self._clock = clock
        self._signed: dict[str, _Signed] = {}

    async def svid(self, uid: str, request: ProvenRequest) -> IssuedSvid:
        """The certificate for the request of this UID. Raises what the issuer says about it."""
        known = self._signed.get(uid)
        if known is not None and self._clock.monotonic() - known.at < _GOOD_FOR:
            return known.svid
        (outcome,) = await self._issuer.issue_proven([request])
        if isinstance(outcome, CitadelError):
            raise outcome
        self._signed[uid] = _Signed(outcome, self._clock.monotonic())
        return outcome

    def forget(self, uid: str) -> None:
        """The request was answered, or is gone."""
        self._signed.pop(uid, None)


def chain_pem(svid: IssuedSvid) -> str:
    """The leaf and its intermediates, without a root."""
    return "".join(map(ssl.DER_cert_to_PEM_cert, svid.chain_der))
