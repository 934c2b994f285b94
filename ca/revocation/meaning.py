"""What is meant by what an administrator names: a serial, a SPIFFE ID, or an agent."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import uuid4

from cryptography.x509 import ReasonFlags

from ca.audit.model import Actor
from ca.revocation.model import IssuedCertificate, Revocation, RevocationKind
from ca.revocation.ports import IssuedCertificates
from citadel.errors import FailedPrecondition, NotFound, Reason
from citadel.reserved import RESERVED_SEGMENT, is_agent_id
from citadel.spiffe import SCHEME, SpiffeId, TrustDomain

# As `citadel.serial.serial_hex` writes them, once colons and capitals, which other tools print, are gone.
_SERIAL: Final = re.compile(r"(?:[0-9a-f]{2}){1,20}")
_FIX: Final = "`citadel-cli ledger list` and `citadel-cli agent list` show what there is"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What somebody wants to be revoked: a serial, a SPIFFE ID, or the name or ID of an agent."""

    target: str
    reason: str
    code: ReasonFlags = ReasonFlags.unspecified


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """A revocation that is not recorded yet, and the valid certificates that it would take back."""

    revocation: Revocation
    certificates: Sequence[IssuedCertificate]


class Meanings:
    """Finds out what a wish means. Changes nothing."""

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        certificates: IssuedCertificates,
        is_agent: Callable[[SpiffeId], bool],
    ) -> None:
        """`is_agent` says whether an agent of this ID has joined."""
        self._trust_domain = trust_domain
        self._certificates = certificates
        self._is_agent = is_agent

    async def of(self, wish: Wish, *, by: Actor, now: datetime) -> Meaning:
        """Raises `NotFound` or `FailedPrecondition` (`nothing_to_revoke`), or `InvalidArgument` for no SPIFFE ID."""
        target = wish.target.strip()
        serial = target.replace(":", "").lower()
        if _SERIAL.fullmatch(serial) and not self._is_agent_name(target):
            return await self._of_serial(serial, wish, by, now)
        spiffe_id = self._spiffe_id(target)
        if not spiffe_id.is_member_of(self._trust_domain):
            raise NotFound(Reason.NOTHING_TO_REVOKE, f"{spiffe_id} is of another trust domain")
        if is_agent_id(spiffe_id):
            return await self._of_agent(spiffe_id, wish, by, now)
        if _is_reserved(spiffe_id):
            raise FailedPrecondition(Reason.NOTHING_TO_REVOKE, f"{spiffe_id} is Citadel's own: it cannot be revoked")
        found = await self._certificates.of_identity(spiffe_id, now)
        if not found:
            why = f"{spiffe_id} has no certificate that is still valid"
            raise NotFound(Reason.NOTHING_TO_REVOKE, why, fix="delete its entries, so that it gets none any more")
        return Meaning(revocation=_new(RevocationKind.IDENTITY, str(spiffe_id), wish, by, now), certificates=found)

    async def issued(self, revocation: Revocation, now: datetime) -> Sequence[IssuedCertificate]:
        """The valid certificates that this revocation takes back."""
        match revocation.kind:
            case RevocationKind.CERTIFICATE:
                found = await self._certificates.by_serial(revocation.target)
                return [found] if found is not None and found.not_after > now else []
            case RevocationKind.IDENTITY:
                return await self._certificates.of_identity(SpiffeId.parse(revocation.target), now)
            case RevocationKind.AGENT:
                return await self._certificates.through(SpiffeId.parse(revocation.target), now)

    async def _of_serial(self, serial: str, wish: Wish, by: Actor, now: datetime) -> Meaning:
        found = await self._certificates.by_serial(serial)
        if found is None:
            raise NotFound(Reason.NOTHING_TO_REVOKE, f"there is no certificate with the serial {serial}", fix=_FIX)
        if found.not_after <= now:
            ended = f"{found.not_after:%Y-%m-%dT%H:%M:%SZ}"
            why = f"the certificate {serial} of {found.spiffe_id} has ended at {ended}"
            raise FailedPrecondition(Reason.NOTHING_TO_REVOKE, why)
        if _is_reserved(found.spiffe_id):
            why = f"the certificate {serial} is that of {found.spiffe_id}, one of Citadel's own identities"
            fix = f"revoke all of it: `citadel-cli revoke {found.spiffe_id}`" if is_agent_id(found.spiffe_id) else ""
            raise FailedPrecondition(Reason.NOTHING_TO_REVOKE, why, fix=fix)
        revocation = _new(RevocationKind.CERTIFICATE, serial, wish, by, now)
        if found.is_newest and found.entry_id:  # otherwise the workload has another one already, with another key
            revocation = replace(revocation, entry_id=found.entry_id, agent=str(found.requested_by))
        return Meaning(revocation=revocation, certificates=[found])

    async def _of_agent(self, agent: SpiffeId, wish: Wish, by: Actor, now: datetime) -> Meaning:
        found = await self._certificates.through(agent, now)
        if not found and not self._is_agent(agent):  # one that was evicted can have left some
            raise NotFound(Reason.NOTHING_TO_REVOKE, f"{agent} is not a joined agent", fix=_FIX)
        return Meaning(revocation=_new(RevocationKind.AGENT, str(agent), wish, by, now), certificates=found)

    def _spiffe_id(self, target: str) -> SpiffeId:
        if target.startswith(SCHEME):
            return SpiffeId.parse(target)
        return self._trust_domain.member(RESERVED_SEGMENT, "agent", *target.split("/"))

    def _is_agent_name(self, target: str) -> bool:
        return ":" not in target and self._is_agent(self._spiffe_id(target))


def _is_reserved(spiffe_id: SpiffeId) -> bool:
    return spiffe_id.path.startswith(f"/{RESERVED_SEGMENT}/")


def _new(kind: RevocationKind, target: str, wish: Wish, by: Actor, now: datetime) -> Revocation:
    return Revocation(
        id=uuid4().hex,
        kind=kind,
        target=target,
        reason=wish.reason,
        code=wish.code,
        revoked_at=now,
        revoked_by=str(by),
    )
