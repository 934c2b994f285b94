"""What revocation needs of the store and of the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from ca.audit.model import Act
from ca.revocation.model import IssuedCertificate, Revocation, RevokedCertificate
from citadel.spiffe import SpiffeId


class RevocationStore(Protocol):
    """Where revocations are durable."""

    async def record(self, revocation: Revocation, act: Act, *, at: datetime) -> None:
        """Insert it, or put it in the place of the one with its id, and note the act with it."""
        ...

    async def complete(self, revocation: Revocation, certificates: Sequence[RevokedCertificate]) -> Revocation:
        """Record these certificates as revoked, without those that were already, and the revocation as complete."""
        ...

    async def unlifted(self) -> Sequence[Revocation]:
        """Every revocation that was not lifted."""
        ...

    async def newest(self, limit: int) -> Sequence[Revocation]:
        """The revocations that were made last, the newest first."""
        ...

    async def revoked(self, now: datetime) -> Sequence[RevokedCertificate]:
        """Every revoked certificate that has not ended."""
        ...


class IssuedCertificates(Protocol):
    """What the ledger knows."""

    async def by_serial(self, serial: str) -> IssuedCertificate | None:
        """The certificate with this serial (lowercase hex), ended or not."""
        ...

    async def of_identity(self, spiffe_id: SpiffeId, now: datetime) -> Sequence[IssuedCertificate]:
        """Every certificate of this identity that is valid after `now`."""
        ...

    async def through(self, agent: SpiffeId, now: datetime) -> Sequence[IssuedCertificate]:
        """Every certificate that this agent asked for and that is valid after `now`, its own among them."""
        ...


class ListStore(Protocol):
    """Where signed lists are durable, so that a restart pushes nothing that is not new."""

    async def lists(self) -> Mapping[str, bytes]:
        """The newest list of each authority, DER, by the authority's id."""
        ...

    async def put_list(self, authority_id: str, crl: bytes) -> None:
        """Keep it in the place of the one before."""
        ...

    async def forget_lists(self, authority_ids: Sequence[str]) -> None:
        """Forget the lists of authorities that are gone."""
        ...
