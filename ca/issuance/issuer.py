"""Issuing, the sacred function of Citadel: `Issuer.issue` reads from top to bottom; nothing else signs leaves."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.agents.model import Agent
from ca.authority.manager import IssuingAuthority
from ca.issuance.csr import WorkloadPublicKey, public_key_of
from ca.issuance.leaf import LeafSigner
from ca.issuance.ledger import Ledger, LedgerRow
from ca.issuance.lifetime import LifetimePolicy, LimitedBy, settle
from citadel.clock import Clock
from citadel.entry import Entry
from citadel.errors import CitadelError, InvalidArgument, Reason
from citadel.serial import new_serial, serial_hex
from citadel.spiffe import SpiffeId

# Below this the work is done before a thread could take it over; above it would hold up every other call.
_INLINE_BATCH: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class SvidRequest:
    """One item of an agent's batch."""

    entry_id: str
    csr: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedSvid:
    """A certificate that may be handed out: its ledger row is durable. `chain` is leaf first, without the root."""

    spiffe_id: SpiffeId
    chain: tuple[x509.Certificate, ...]
    limited_by: LimitedBy


class Entries(Protocol):
    """Answers which entries an agent may ask for."""

    def authorized(self, agent: Agent, entry_id: str, now: datetime) -> Entry:
        """The entry. Raises `PermissionDenied` (`entry_not_authorized`) where it is not this agent's."""
        ...


class Authorities(Protocol):
    """Answers who signs."""

    def issuing(self) -> IssuingAuthority:
        """Raises `Unavailable` (`issuer_unavailable`)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """What a leaf is to say, settled before it is signed."""

    spiffe_id: SpiffeId
    entry_id: str
    dns_names: tuple[str, ...] = ()
    ttl: timedelta | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signed:
    svid: IssuedSvid
    row: LedgerRow


class Issuer:
    """Signs leaves: for workloads through their agents, for agents, and for the server itself."""

    def __init__(
        self,
        *,
        entries: Entries,
        authorities: Authorities,
        ledger: Ledger,
        clock: Clock,
        policy: LifetimePolicy,
        agent_lifetime: timedelta,
        max_batch: int,
    ) -> None:
        self._entries = entries
        self._authorities = authorities
        self._ledger = ledger
        self._clock = clock
        self._policy = policy
        self._agent_lifetime = agent_lifetime
        self._max_batch = max_batch

    async def issue(self, agent: Agent, requests: Sequence[SvidRequest]) -> list[IssuedSvid | CitadelError]:
        """Sign a batch for `agent`; results stand in the order of requests, and a refusal takes nothing from others.

        Raises `InvalidArgument` (`batch_too_large`), `Unavailable` and `PermissionDenied` where they concern the whole
        batch; then nothing was issued.
        """
        # 1. Authenticate. `agent` is the proof: only `ca.agents.roster` makes one, from the certificate and key that
        #    the caller showed on this connection.
        if len(requests) > self._max_batch:
            raise InvalidArgument(
                Reason.BATCH_TOO_LARGE, f"{len(requests)} requests in one call; {self._max_batch} are allowed"
            )
        authority = self._authorities.issuing()
        now = self._clock.now()

        def prepare(request: SvidRequest) -> _Signed | CitadelError:
            try:
                # 2. Authorize: the entry's parent is the agent, or an alias that the server matched itself.
                entry = self._entries.authorized(agent, request.entry_id, now)
                # 3. Check the request: proof of possession, key type. Nothing but its public key is used.
                public_key = public_key_of(request.csr)
                # 4. and 5. Settle the lifetime and sign.
                return self._sign(
                    authority,
                    _subject_of(entry),
                    public_key,
                    requested_by=agent.spiffe_id,
                    policy=self._policy,
                    now=now,
                )
            except CitadelError as refusal:
                return refusal

        signed = await _map_off_the_loop(prepare, requests)
        # 6. Make the rows durable; a ban that came meanwhile refuses them here.
        await self._ledger.append([item.row for item in signed if isinstance(item, _Signed)])
        # 7. Answer.
        return [item.svid if isinstance(item, _Signed) else item for item in signed]

    async def issue_reserved(self, spiffe_id: SpiffeId, csr: bytes, *, dns_names: tuple[str, ...] = ()) -> IssuedSvid:
        """Sign for one of Citadel's own identities (an agent, the server), whose right to it the caller has checked."""
        signed = self._sign(
            self._authorities.issuing(),
            _Subject(spiffe_id=spiffe_id, entry_id="", dns_names=dns_names),
            public_key_of(csr),
            requested_by=spiffe_id,
            policy=replace(self._policy, default=self._agent_lifetime),
            now=self._clock.now(),
        )
        await self._ledger.append([signed.row])
        return signed.svid

    def _sign(
        self,
        issuing: IssuingAuthority,
        subject: _Subject,
        public_key: WorkloadPublicKey,
        *,
        requested_by: SpiffeId,
        policy: LifetimePolicy,
        now: datetime,
    ) -> _Signed:
        authority = issuing.authority
        validity = settle(
            now=now,
            policy=policy,
            asked=subject.ttl,
            entry_expires_at=subject.expires_at,
            issuer_not_before=authority.not_before,
            issuer_not_after=authority.not_after,
        )
        serial = new_serial()
        leaf = LeafSigner(issuer=authority.certificate, key=issuing.key).sign(
            spiffe_id=subject.spiffe_id,
            dns_names=subject.dns_names,
            public_key=public_key,
            validity=validity,
            serial=serial,
        )
        row = LedgerRow(
            serial=serial_hex(serial),
            spiffe_id=subject.spiffe_id,
            entry_id=subject.entry_id,
            requested_by=requested_by,
            issuer_id=authority.id,
            public_key=key_digest(public_key),
            not_before=validity.not_before,
            not_after=validity.not_after,
            issued_at=now,
            limited_by=validity.limited_by.value,
        )
        chain = (leaf, authority.certificate)
        return _Signed(
            svid=IssuedSvid(spiffe_id=subject.spiffe_id, chain=chain, limited_by=validity.limited_by), row=row
        )


def key_digest(public_key: WorkloadPublicKey) -> str:
    """SHA-256 (hex) of the SubjectPublicKeyInfo: how the store names a key."""
    return hashlib.sha256(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _subject_of(entry: Entry) -> _Subject:
    return _Subject(
        spiffe_id=entry.spiffe_id,
        entry_id=entry.id,
        dns_names=entry.dns_names,
        ttl=entry.x509_svid_ttl,
        expires_at=entry.expires_at,
    )


async def _map_off_the_loop(
    function: Callable[[SvidRequest], _Signed | CitadelError], items: Sequence[SvidRequest]
) -> list[_Signed | CitadelError]:
    if len(items) <= _INLINE_BATCH:
        return [function(item) for item in items]
    return await asyncio.to_thread(lambda: [function(item) for item in items])
