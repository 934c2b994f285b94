"""Issuing, the sacred function of Citadel: `Issuer.issue` reads from top to bottom; nothing else signs leaves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Protocol

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.agents.model import Agent
from ca.authority.model import IssuingAuthority
from ca.issuance.csr import WorkloadPublicKey, public_key_of
from ca.issuance.entries import Entries, check_unchanged
from ca.issuance.ledger import Ledger
from ca.issuance.lifetime import LifetimePolicy, Validity
from ca.issuance.press import Draft, IssuedSvid, Press, Subject
from ca.issuance.proven import ProvenRequest
from ca.issuance.quota import Quota
from ca.issuance.worker import SigningWorker
from citadel.clock import Clock
from citadel.entry import Entry
from citadel.errors import CitadelError
from citadel.spiffe import SpiffeId

OnSigned = Callable[[int, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SvidRequest:
    """One item of an agent's batch."""

    entry_id: str
    csr: bytes


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
        self._latest_press: Press | None = None
        self._worker = SigningWorker("issuing")

    def close(self) -> None:
        """End the worker thread; whatever large batch has not begun is cancelled."""
        self._worker.close()

    def check_size(self, count: int) -> None:
        """Raise `InvalidArgument` (`batch_too_large`) for a batch that `issue` would refuse for its size."""
        self._quota.check(count)

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

        def draft(request: SvidRequest) -> Draft | CitadelError:
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
        good = [each for each in drafts if isinstance(each, Draft)]
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
        return [next(answers) if isinstance(each, Draft) else each for each in drafts]

    async def issue_proven(self, requests: Sequence[ProvenRequest]) -> list[IssuedSvid | CitadelError]:
        """Sign a batch for identities that a platform has proved; results as those of `issue`.

        Raises `Unavailable` where nobody can sign now; then nothing was issued.
        """
        # 1. Authenticate. A request is the proof: only the rooms that ask a platform make one, from its answer. The
        #    callers of a batch are strangers to each other, so each has a share of its own.
        admitted = [self._charged(request) for request in requests]
        press, now = self._press(), self._clock.now()
        settled = cache(partial(press.settled, now=now))

        def draft(request: ProvenRequest | CitadelError) -> Draft | CitadelError:
            if isinstance(request, CitadelError):
                return request
            try:
                # 2. Authorize: it is no reserved identity, and was not revoked.
                request.refuse_reserved()
                self._bars.refuse(request.spiffe_id, entry_id="", requested_by=request.requested_by)
                # 3. Check the request: proof of possession, key type. Nothing but its public key is used.
                public_key = request.public_key()
                # 4. Settle the lifetime, and with it all that the certificate is to say.
                subject = Subject(
                    spiffe_id=request.spiffe_id,
                    entry_id="",
                    dns_names=request.dns_names,
                    validity=settled(request.lifetime, policy=request.policy),
                )
                return press.drafted(subject, public_key, requested_by=request.requested_by, now=now)
            except CitadelError as refusal:
                return refusal

        begun = self._clock.monotonic()
        drafts = await self._worker.map(draft, admitted, inline=press.inline)
        good = [each for each in drafts if isinstance(each, Draft)]
        # 5. Sign what was not refused, all at once, wherever the key is.
        signed = await self._worker.sign(press.issuing.key, press.signed, good, inline=press.inline)
        self._on_signed(len(drafts), self._clock.monotonic() - begun)
        # 6. Nothing to authorize again: no entry can have changed.
        # 7. Make the rows durable; a revocation that came meanwhile refuses here the one that it concerns.
        refusals = await self._ledger.append_each([draft.row for draft in good])
        # 8. Answer.
        answers = iter([svid if refusal is None else refusal for svid, refusal in zip(signed, refusals, strict=True)])
        return [next(answers) if isinstance(each, Draft) else each for each in drafts]

    async def issue_reserved(self, spiffe_id: SpiffeId, csr: bytes, *, dns_names: tuple[str, ...] = ()) -> IssuedSvid:
        """Sign for one of Citadel's own identities (an agent, the server), whose right to it the caller has checked."""
        self._quota.take(spiffe_id, 1)
        press, now = self._press(), self._clock.now()
        validity = press.settled(now=now, policy=replace(self._policy, default=self._policy.own))
        subject = Subject(spiffe_id=spiffe_id, entry_id="", dns_names=dns_names, validity=validity)
        return await self._issued(press, press.drafted(subject, public_key_of(csr), requested_by=spiffe_id, now=now))

    async def issue_minted(self, terms: Entry, csr: bytes, *, requested_by: SpiffeId) -> IssuedSvid:
        """Sign what an administrator asks for, by `terms` that `ca.insight.minting` has checked like an entry's."""
        self._bars.refuse(terms.spiffe_id, entry_id=terms.id, requested_by=requested_by)
        press, now = self._press(), self._clock.now()
        validity = press.settled(terms.x509_svid_ttl, terms.expires_at, now=now, policy=self._policy)
        subject = _subject_of(terms, validity)
        return await self._issued(press, press.drafted(subject, public_key_of(csr), requested_by=requested_by, now=now))

    async def _issued(self, press: Press, draft: Draft) -> IssuedSvid:
        """Steps 5, 7 and 8 of `issue`, for one that no entry stands for."""
        (svid,) = await self._worker.sign(press.issuing.key, press.signed, [draft], inline=press.inline)
        await self._ledger.append([draft.row])
        return svid

    def _charged(self, request: ProvenRequest) -> ProvenRequest | CitadelError:
        try:
            self._quota.take(request.charged_to, 1)
        except CitadelError as refusal:
            return refusal
        return request

    def _unless_changed(self, draft: Draft, svid: IssuedSvid, agent: Agent) -> IssuedSvid | CitadelError:
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

    def _press(self) -> Press:
        issuing = self._authorities.issuing()
        if self._latest_press is None or self._latest_press.issuing is not issuing:
            self._latest_press = Press.of(issuing)
        return self._latest_press


def key_digest(public_key: WorkloadPublicKey) -> str:
    """SHA-256 (hex) of the SubjectPublicKeyInfo: how the store names a key."""
    return hashlib.sha256(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _subject_of(entry: Entry, validity: Validity) -> Subject:
    return Subject(spiffe_id=entry.spiffe_id, entry_id=entry.id, dns_names=entry.dns_names, validity=validity)
