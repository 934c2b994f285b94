"""Issuing tokens: `JwtIssuer.issue` reads from top to bottom; nothing else signs JWT-SVIDs.

Tokens are no ledger rows: see decision 30. They are never logged, and stand in no message of an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Protocol

from ca.agents.model import Agent
from ca.authority.jwt_model import JwtSigner
from ca.issuance.audiences import checked_audiences
from ca.issuance.entries import Entries, check_unchanged
from ca.issuance.issuer import Bars
from ca.issuance.lifetime import LifetimePolicy, LimitedBy, Validity, settle
from ca.issuance.quota import Quota
from ca.issuance.worker import SigningWorker
from ca.keys.kinds import AuthorityKey
from ca.keys.signing import most_inline
from citadel import jws
from citadel.clock import Clock
from citadel.entry import Entry
from citadel.errors import CitadelError
from citadel.spiffe import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtRequest:
    """One item of an agent's batch."""

    entry_id: str
    audiences: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedJwt:
    """A token that may be handed out: its end is durable."""

    spiffe_id: SpiffeId
    entry_id: str
    token: str = field(repr=False)
    issued_at: datetime
    expires_at: datetime
    limited_by: LimitedBy


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """All that a token is to say, settled before it is signed."""

    entry: Entry
    claims: Mapping[str, Any]
    issued_at: datetime
    validity: Validity


class JwtSigners(Protocol):
    """Answers who signs, and makes durable until when. `ca.authority.jwt` is the one there is."""

    def signing(self) -> JwtSigner:
        """Raises `Unavailable` (`issuer_unavailable`)."""
        ...

    async def reserve(self, signer: JwtSigner, until: datetime) -> None:
        """Return once it is durable that tokens of this authority may live until then. Raises `Unavailable`."""
        ...


class Meter(Protocol):
    """What is measured. `ca.metrics` has the one there is."""

    def note_signed(self, seconds: float) -> None:
        """A batch was checked and signed within so many seconds."""
        ...

    def note_issued(self, number: int) -> None:
        """So many tokens may be handed out."""
        ...


class JwtIssuer:
    """Signs JWT-SVIDs for workloads through their agents."""

    def __init__(
        self,
        *,
        entries: Entries,
        bars: Bars,
        authorities: JwtSigners,
        clock: Clock,
        policy: LifetimePolicy,
        quota: Quota,
        issuer: str | None = None,
        meter: Meter,
    ) -> None:
        """`issuer` is what tokens say in `iss`."""
        self._entries = entries
        self._bars = bars
        self._authorities = authorities
        self._clock = clock
        self._policy = policy
        self._quota = quota
        self._issuer = issuer
        self._meter = meter
        self._worker = SigningWorker("signing tokens")

    def close(self) -> None:
        """End the worker thread; whatever large batch has not begun is cancelled."""
        self._worker.close()

    def check_size(self, count: int) -> None:
        """Raise `InvalidArgument` (`batch_too_large`) for a batch that `issue` would refuse for its size."""
        self._quota.check(count)

    async def issue(self, agent: Agent, requests: Sequence[JwtRequest]) -> list[IssuedJwt | CitadelError]:
        """Sign a batch for `agent`; results stand in the order of requests, and a refusal takes nothing from others.

        Raises what `Quota.take` does, and `Unavailable` where it concerns the whole batch; then nothing was issued.
        """
        # 1. Authenticate. `agent` is the proof: only `ca.agents.roster` makes one, from the certificate and key that
        #    the caller showed on this connection.
        self._quota.take(agent.spiffe_id, len(requests))
        signer, now = self._authorities.signing(), self._clock.now()

        def draft(request: JwtRequest) -> _Draft | CitadelError:
            try:
                # 2. Authorize: the entry is this agent's, and its identity was not revoked.
                entry = self._entries.authorized(agent, request.entry_id, now)
                self._bars.refuse(entry.spiffe_id, entry_id=entry.id, requested_by=agent.spiffe_id)
                # 3. Check the request: for whom the token is to be.
                audiences = checked_audiences(request.audiences)
                # 4. Settle the lifetime, and with it all that the token is to say.
                return self._drafted(entry, audiences, now=now, validity=self._settled(entry, signer, now))
            except CitadelError as refusal:
                return refusal

        begun, inline = self._clock.monotonic(), most_inline(signer.key)
        drafts = await self._worker.map(draft, requests, inline=inline)
        good = [each for each in drafts if isinstance(each, _Draft)]
        # 5. Sign what was not refused, all at once, wherever the key is.
        signed = iter(await self._worker.sign(signer.key, partial(_signed, signer.authority.kid), good, inline=inline))
        self._meter.note_signed(self._clock.monotonic() - begun)
        # 6. Make durable until when tokens of this key live, before any of them is known to anybody.
        if good:
            await self._authorities.reserve(signer, max(each.validity.not_after for each in good))
        # 7. Answer; a revocation, and a change of its entry, that came meanwhile refuse.
        answer = [self._unless_changed(next(signed), agent) if isinstance(each, _Draft) else each for each in drafts]
        self._meter.note_issued(sum(isinstance(item, IssuedJwt) for item in answer))
        return answer

    def _settled(self, entry: Entry, signer: JwtSigner, now: datetime) -> Validity:
        authority = signer.authority
        return settle(
            now=now,
            policy=self._policy,
            asked=entry.jwt_svid_ttl,
            entry_expires_at=entry.expires_at,
            issuer_not_before=authority.not_before,
            issuer_not_after=authority.not_after,
        )

    def _drafted(self, entry: Entry, audiences: Sequence[str], *, now: datetime, validity: Validity) -> _Draft:
        issued_at = now.replace(microsecond=0)
        claims: dict[str, Any] = {
            "sub": str(entry.spiffe_id),
            "aud": list(audiences),
            "iat": int(issued_at.timestamp()),
            "exp": int(validity.not_after.timestamp()),
        }
        if self._issuer is not None:
            claims["iss"] = self._issuer
        return _Draft(entry=entry, claims=claims, issued_at=issued_at, validity=validity)

    def _unless_changed(self, item: IssuedJwt, agent: Agent) -> IssuedJwt | CitadelError:
        try:
            check_unchanged(
                self._entries,
                agent,
                item.entry_id,
                spiffe_id=item.spiffe_id,
                not_after=item.expires_at,
                now=self._clock.now(),
            )
            self._bars.refuse(item.spiffe_id, entry_id=item.entry_id, requested_by=agent.spiffe_id)
        except CitadelError as refusal:
            return refusal
        return item


def _signed(key_id: str, key: AuthorityKey, draft: _Draft) -> IssuedJwt:
    return IssuedJwt(
        spiffe_id=draft.entry.spiffe_id,
        entry_id=draft.entry.id,
        token=jws.sign(draft.claims, key=key, key_id=key_id),
        issued_at=draft.issued_at,
        expires_at=draft.validity.not_after,
        limited_by=draft.validity.limited_by,
    )
