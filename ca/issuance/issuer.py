"""Issuing, the sacred function of Citadel: `Issuer.issue` reads from top to bottom; nothing else signs leaves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.agents.model import Agent
from ca.authority.manager import IssuingAuthority
from ca.issuance.csr import WorkloadPublicKey, public_key_of
from ca.issuance.entries import Entries, check_unchanged
from ca.issuance.fast_leaf import leaf_signer
from ca.issuance.leaf import LeafSigner
from ca.issuance.ledger import Ledger, LedgerRow
from ca.issuance.lifetime import LifetimePolicy, LimitedBy, Validity, settle
from ca.issuance.quota import Quota
from ca.issuance.worker import SigningWorker
from ca.keys.kinds import AuthorityKey
from ca.keys.signing import most_inline
from citadel.clock import Clock
from citadel.entry import Entry
from citadel.errors import CitadelError
from citadel.serial import new_serial, serial_hex
from citadel.spiffe import SpiffeId

OnSigned = Callable[[int, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SvidRequest:
    """One item of an agent's batch."""

    entry_id: str
    csr: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedSvid:
    """A certificate that may be handed out: its ledger row is durable. `chain_der` is leaf first, without the root."""

    spiffe_id: SpiffeId
    chain_der: tuple[bytes, ...]
    not_after: datetime
    limited_by: LimitedBy

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """The same chain, parsed."""
        return tuple(map(x509.load_der_x509_certificate, self.chain_der))


class Bars(Protocol):
    """Answers what was revoked."""

    def refuse(self, spiffe_id: SpiffeId, *, entry_id: str, requested_by: SpiffeId) -> None:
        """Raises `PermissionDenied` (`identity_revoked`) where nothing new may be signed for this."""
        ...


class Authorities(Protocol):
    """Answers who signs."""

    def issuing(self) -> IssuingAuthority:
        """Raises `Unavailable` (`issuer_unavailable`)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """Who a leaf is for, and for how long."""

    spiffe_id: SpiffeId
    entry_id: str
    dns_names: tuple[str, ...]
    validity: Validity


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """All that a leaf is to say, settled before it is signed, and the row that must be durable before it leaves.

    `public_key` is a SubjectPublicKeyInfo in DER.
    """

    subject: _Subject
    public_key: bytes
    serial: int
    row: LedgerRow


@dataclass(frozen=True, slots=True, kw_only=True)
class _Press:
    """An issuing authority, and what all leaves under it share: `chain_der` is what they are handed out with."""

    issuing: IssuingAuthority
    chain_der: tuple[bytes, ...]
    signer: LeafSigner
    inline: int  # so few are signed on the loop

    @classmethod
    def of(cls, issuing: IssuingAuthority) -> _Press:
        certificate = issuing.authority.certificate
        signer = leaf_signer(issuer=certificate)
        chain = tuple(each.public_bytes(Encoding.DER) for each in (certificate, *issuing.authority.chain))
        return cls(issuing=issuing, chain_der=chain, signer=signer, inline=most_inline(issuing.key))

    def settled(
        self,
        ttl: timedelta | None = None,
        expires_at: datetime | None = None,
        *,
        now: datetime,
        policy: LifetimePolicy,
    ) -> Validity:
        """The lifetime of a leaf for an entry with these limits. Raises as `lifetime.settle`."""
        return settle(
            now=now,
            policy=policy,
            asked=ttl,
            entry_expires_at=expires_at,
            issuer_not_before=self.issuing.authority.not_before,
            issuer_not_after=self.issuing.authority.not_after,
        )

    def drafted(
        self, subject: _Subject, public_key: WorkloadPublicKey, *, requested_by: SpiffeId, now: datetime
    ) -> _Draft:
        """The draft of a leaf for this key, with a serial number of its own."""
        serial, key_info = new_serial(), public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        row = LedgerRow(
            serial=serial_hex(serial),
            spiffe_id=subject.spiffe_id,
            entry_id=subject.entry_id,
            requested_by=requested_by,
            issuer_id=self.issuing.authority.id,
            public_key=hashlib.sha256(key_info).hexdigest(),
            not_before=subject.validity.not_before,
            not_after=subject.validity.not_after,
            issued_at=now,
            limited_by=subject.validity.limited_by.value,
        )
        return _Draft(subject=subject, public_key=key_info, serial=serial, row=row)

    def signed(self, key: AuthorityKey, draft: _Draft) -> IssuedSvid:
        """The leaf that `draft` says, by the authority's key or what stands in for it."""
        subject = draft.subject
        leaf = self.signer.sign(
            key=key,
            spiffe_id=subject.spiffe_id,
            dns_names=subject.dns_names,
            public_key=draft.public_key,
            validity=subject.validity,
            serial=draft.serial,
        )
        return IssuedSvid(
            spiffe_id=subject.spiffe_id,
            chain_der=(leaf, *self.chain_der),
            not_after=subject.validity.not_after,
            limited_by=subject.validity.limited_by,
        )


class Issuer:
    """Signs leaves: for workloads through their agents, for agents, and for the server itself."""

    def __init__(
        self,
        *,
        entries: Entries,
        bars: Bars,
        authorities: Authorities,
        ledger: Ledger,
        clock: Clock,
        policy: LifetimePolicy,
        quota: Quota,
        on_signed: OnSigned = lambda _number, _seconds: None,
    ) -> None:
        """`on_signed` is told how many requests of a batch were worked on, and for how many seconds."""
        self._entries = entries
        self._bars = bars
        self._authorities = authorities
        self._ledger = ledger
        self._clock = clock
        self._policy = policy
        self._quota = quota
        self._on_signed = on_signed
        self._latest_press: _Press | None = None
        self._worker = SigningWorker("issuing")

    def close(self) -> None:
        """End the worker thread; whatever large batch has not begun is cancelled."""
        self._worker.close()

    async def issue(self, agent: Agent, requests: Sequence[SvidRequest]) -> list[IssuedSvid | CitadelError]:
        """Sign a batch for `agent`; results stand in the order of requests, and a refusal takes nothing from others.

        Raises what `Quota.take` does, `Unavailable` and `PermissionDenied` where they concern the whole batch; then
        nothing was issued.
        """
        # 1. Authenticate. `agent` is the proof: only `ca.agents.roster` makes one, from the certificate and key that
        #    the caller showed on this connection.
        self._quota.take(agent.spiffe_id, len(requests))
        press = self._press()
        now = self._clock.now()
        settled = cache(partial(press.settled, now=now, policy=self._policy))  # most of a batch live equally long

        def draft(request: SvidRequest) -> _Draft | CitadelError:
            try:
                # 2. Authorize: the entry's parent is the agent, or an alias that the server matched itself; and its
                #    identity was not revoked.
                entry = self._entries.authorized(agent, request.entry_id, now)
                self._bars.refuse(entry.spiffe_id, entry_id=entry.id, requested_by=agent.spiffe_id)
                # 3. Check the request: proof of possession, key type. Nothing but its public key is used.
                public_key = public_key_of(request.csr)
                # 4. Settle the lifetime, and with it all that the certificate is to say.
                subject = _subject_of(entry, settled(entry.x509_svid_ttl, entry.expires_at))
                return press.drafted(subject, public_key, requested_by=agent.spiffe_id, now=now)
            except CitadelError as refusal:
                return refusal

        begun = self._clock.monotonic()
        drafts = await self._worker.map(draft, requests, inline=press.inline)
        good = [each for each in drafts if isinstance(each, _Draft)]
        # 5. Sign what was not refused, all at once, wherever the key is.
        signed = await self._worker.sign(press.issuing.key, press.signed, good, inline=press.inline)
        self._on_signed(len(drafts), self._clock.monotonic() - begun)
        # 6. Authorize again, since that can have taken long: a change of its entry that came meanwhile refuses.
        outcomes = [self._unless_changed(*each, agent) for each in zip(good, signed, strict=True)]
        # 7. Make the rows durable; a ban or a revocation that came meanwhile refuses them here.
        pairs = zip(good, outcomes, strict=True)
        await self._ledger.append([draft.row for draft, outcome in pairs if isinstance(outcome, IssuedSvid)])
        # 8. Answer.
        answers = iter(outcomes)
        return [next(answers) if isinstance(each, _Draft) else each for each in drafts]

    async def issue_reserved(self, spiffe_id: SpiffeId, csr: bytes, *, dns_names: tuple[str, ...] = ()) -> IssuedSvid:
        """Sign for one of Citadel's own identities (an agent, the server), whose right to it the caller has checked."""
        self._quota.take(spiffe_id, 1)
        press, now = self._press(), self._clock.now()
        validity = press.settled(now=now, policy=replace(self._policy, default=self._policy.own))
        subject = _Subject(spiffe_id=spiffe_id, entry_id="", dns_names=dns_names, validity=validity)
        return await self._issued(press, press.drafted(subject, public_key_of(csr), requested_by=spiffe_id, now=now))

    async def issue_minted(self, terms: Entry, csr: bytes, *, requested_by: SpiffeId) -> IssuedSvid:
        """Sign what an administrator asks for, by `terms` that `ca.insight.minting` has checked like an entry's."""
        self._bars.refuse(terms.spiffe_id, entry_id=terms.id, requested_by=requested_by)
        press, now = self._press(), self._clock.now()
        validity = press.settled(terms.x509_svid_ttl, terms.expires_at, now=now, policy=self._policy)
        subject = _subject_of(terms, validity)
        return await self._issued(press, press.drafted(subject, public_key_of(csr), requested_by=requested_by, now=now))

    async def _issued(self, press: _Press, draft: _Draft) -> IssuedSvid:
        """Steps 5, 7 and 8 of `issue`, for one that no entry stands for."""
        (svid,) = await self._worker.sign(press.issuing.key, press.signed, [draft], inline=press.inline)
        await self._ledger.append([draft.row])
        return svid

    def _unless_changed(self, draft: _Draft, svid: IssuedSvid, agent: Agent) -> IssuedSvid | CitadelError:
        subject, now = draft.subject, self._clock.now()
        try:
            check_unchanged(
                self._entries,
                agent,
                subject.entry_id,
                spiffe_id=subject.spiffe_id,
                dns_names=subject.dns_names,
                not_after=subject.validity.not_after,
                now=now,
            )
        except CitadelError as refusal:
            return refusal
        return svid

    def _press(self) -> _Press:
        issuing = self._authorities.issuing()
        if self._latest_press is None or self._latest_press.issuing is not issuing:
            self._latest_press = _Press.of(issuing)
        return self._latest_press


def key_digest(public_key: WorkloadPublicKey) -> str:
    """SHA-256 (hex) of the SubjectPublicKeyInfo: how the store names a key."""
    return hashlib.sha256(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _subject_of(entry: Entry, validity: Validity) -> _Subject:
    return _Subject(spiffe_id=entry.spiffe_id, entry_id=entry.id, dns_names=entry.dns_names, validity=validity)
