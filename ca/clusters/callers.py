"""Who may have an issuing authority: a child, by an SVID that this very server signed for a downstream entry.

The TLS layer takes every identity of the trust domain, and each cluster's own authorities can sign every identity. So
a valid chain says nothing here: the leaf must be signed by an issuing authority of this server itself. Nor does the
identity: other entries, templates and what a cluster of Kubernetes proves can come to the same one. So the leaf must
be the one of the downstream entry, as the ledger knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final, Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from ca.agents.roster import AgentRoster
from ca.authority.model import Authority
from ca.entries.downstream import DownstreamEntries
from ca.revocation.bars import Bars
from ca.revocation.model import IssuedCertificate
from citadel.clock import Clock
from citadel.entry import Entry
from citadel.errors import CitadelError, PermissionDenied, Reason, Unauthenticated
from citadel.spiffe import SpiffeId
from citadel.svid import X509Svid

_CERTIFICATES_KEPT: Final = 256


class Issuers(Protocol):
    """Who signs leaves here."""

    def issuers(self) -> tuple[Authority, ...]:
        """The issuing authorities on record."""
        ...


class RevokedSerials(Protocol):
    """Which certificates were revoked."""

    def has_revoked(self, authority_id: str, serial: str) -> bool:
        """Whether the certificate of this authority with this serial (lowercase hex) was."""
        ...


class Issued(Protocol):
    """What the ledger knows."""

    async def by_serial(self, serial: str) -> IssuedCertificate | None:
        """The certificate with this serial, if it is on record."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A child that was authenticated. `issued` is what the ledger knows of its certificate."""

    svid: X509Svid
    issuer_id: str
    issued: IssuedCertificate | None = None  # before the ledger was asked

    @property
    def spiffe_id(self) -> SpiffeId:
        """The identity of its server here."""
        return self.svid.spiffe_id


class ChildCallers:
    """Recognises children. All refusals are `downstream_refused`."""

    def __init__(
        self,
        *,
        authorities: Issuers,
        entries: DownstreamEntries,
        bars: Bars,
        revoked: RevokedSerials,
        ledger: Issued,
        roster: AgentRoster,
        clock: Clock,
    ) -> None:
        self._authorities = authorities
        self._entries = entries
        self._bars = bars
        self._revoked = revoked
        self._ledger = ledger
        self._roster = roster
        self._clock = clock
        # Every call shows the certificate of its connection. What may change, `check` looks at anew.
        self._parsed = lru_cache(_CERTIFICATES_KEPT)(self._parse)

    def recognise(self, leaf_pem: bytes) -> SpiffeId:
        """Who it is, waiting for nothing: `authenticate` knows more. Raises as that."""
        child = self._parsed(leaf_pem)
        self.check(child)
        return child.spiffe_id

    async def authenticate(self, leaf_pem: bytes) -> Child:
        """The child whose certificate the TLS layer verified, if it may be one.

        Raises `Unauthenticated` or `PermissionDenied` (`downstream_refused`), or `Unavailable` where the ledger is.
        """
        known = self._parsed(leaf_pem)
        self.check(known)
        issued = await self._ledger.by_serial(known.svid.serial)
        if issued is None:  # as after a restore; through whom it came is not known then, nor whether that one is banned
            raise PermissionDenied(
                Reason.DOWNSTREAM_REFUSED,
                f"the certificate {known.svid.serial} of {known.spiffe_id} is not on record here",
                fix="wait until the agent of the child renews it",
            )
        child = Child(svid=known.svid, issuer_id=known.issuer_id, issued=issued)
        self.check(child)
        return child

    @contextmanager
    def waking(self, event: asyncio.Event, child: Child) -> Iterator[None]:
        """Within this, `event` is set whenever the agent that the child has its SVID from is banned or changed."""
        agent = child.issued.requested_by if child.issued is not None else None
        if agent is None:
            yield
            return
        self._roster.watch(event, agent)
        try:
            yield
        finally:
            self._roster.unwatch(event, agent)

    def check(self, child: Child) -> datetime:
        """Until when it may go on, if nothing changes. Raises as `authenticate` where it may not, or not any more."""
        now, svid = self._clock.now(), child.svid
        if all(each.id != child.issuer_id for each in self._authorities.issuers()):
            raise _unknown_signer(svid.spiffe_id)
        if svid.not_after <= now:
            # gRPC checks this at the handshake only; a connection can outlive its certificate.
            raise Unauthenticated(
                Reason.DOWNSTREAM_REFUSED,
                f"the certificate of {svid.spiffe_id} has expired",
                fix="connect anew with the renewed certificate",
            )
        entry = self._entry_of(child, now)
        self._check_revoked(child)
        return min(svid.not_after, entry.expires_at or svid.not_after)

    def _entry_of(self, child: Child, now: datetime) -> Entry:
        """The entry that its certificate was issued for; before the ledger was asked, one that it may be."""
        if (likely := self._entries.of(child.spiffe_id, now)) is None:
            raise PermissionDenied(
                Reason.DOWNSTREAM_REFUSED,
                f"{child.spiffe_id} has no entry that is downstream",
                fix="create its entry with --downstream, if it is the server of a cluster below",
            )
        if child.issued is None:
            return likely
        own = self._entries.one(child.spiffe_id, child.issued.entry_id, now)
        if own is None:
            raise PermissionDenied(
                Reason.DOWNSTREAM_REFUSED,
                f"the certificate {child.svid.serial} of {child.spiffe_id} is not that of an entry that is downstream",
                fix="give the child's server no other identity; where its entry was made anew, wait for its agent",
            )
        return own

    def _check_revoked(self, child: Child) -> None:
        issued = child.issued
        try:
            self._bars.refuse(
                child.spiffe_id,
                entry_id=issued.entry_id if issued else "",
                requested_by=issued.requested_by if issued else child.spiffe_id,
            )
            if issued is not None:
                self._roster.refuse_shut_out(issued.requested_by)
        except PermissionDenied as error:
            raise PermissionDenied(
                Reason.DOWNSTREAM_REFUSED, f"{child.spiffe_id} may have no authority: {error.message}", fix=error.fix
            ) from error
        if self._revoked.has_revoked(child.issuer_id, child.svid.serial):
            raise PermissionDenied(
                Reason.DOWNSTREAM_REFUSED, f"the certificate {child.svid.serial} of {child.spiffe_id} was revoked"
            )

    def _parse(self, leaf_pem: bytes) -> Child:
        try:
            leaf = x509.load_pem_x509_certificate(leaf_pem)
            svid = X509Svid.from_der([leaf.public_bytes(Encoding.DER)])
        except (ValueError, CitadelError) as error:
            raise Unauthenticated(
                Reason.DOWNSTREAM_REFUSED, f"the client certificate is not an X509-SVID: {error}"
            ) from error
        for issuer in self._authorities.issuers():
            if _has_signed(issuer.certificate, leaf):
                return Child(svid=svid, issuer_id=issuer.id)
        raise _unknown_signer(svid.spiffe_id)


def _has_signed(issuer: x509.Certificate, leaf: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _unknown_signer(spiffe_id: SpiffeId) -> PermissionDenied:
    return PermissionDenied(
        Reason.DOWNSTREAM_REFUSED,
        f"the certificate of {spiffe_id} was not signed by an issuing authority of this server",
        fix="the child needs an SVID from an agent of its parent, and not from one of another cluster",
    )
