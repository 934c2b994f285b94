"""Coming back: an agent whose own SVID has expired proves its recorded key, and needs no token for a while."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ca.agents.proving import Claim, NewNonce, new_nonce
from ca.agents.roster import AgentRoster
from ca.audit.model import Act, Actor
from ca.issuance.csr import public_key_of
from ca.issuance.issuer import Issuer, key_digest
from ca.issuance.press import IssuedSvid
from citadel.clock import Clock
from citadel.config.types import format_duration
from citadel.errors import InvalidArgument, PermissionDenied, Reason, Unauthenticated
from citadel.possession import Challenge, ProvenKey, Purpose, provable
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.tasks import to_its_end

_log = structlog.get_logger(__name__)


class KeyEnds(Protocol):
    """What the ledger knows of an agent's keys."""

    async def key_ended_at(self, spiffe_id: SpiffeId, key: str) -> datetime | None:
        """When the last certificate for this agent and key (a digest) ends or ended; None where there was none."""
        ...


class Rejoining:
    """Renews the identity of an agent that can no longer ask over mutual TLS.

    It is a renewal that is authenticated in another way: the proven key must be a recorded one, and the new key is
    recorded as the next one before the certificate leaves. So a lost answer is asked for again in the same way
    (invariant 12).
    """

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        key_ends: KeyEnds,
        roster: AgentRoster,
        issuer: Issuer,
        clock: Clock,
        grace: timedelta,
        nonce: NewNonce = new_nonce,
    ) -> None:
        self._trust_domain = trust_domain
        self._key_ends = key_ends
        self._roster = roster
        self._issuer = issuer
        self._clock = clock
        self._grace = grace
        self._nonce = nonce

    def claim(self, spiffe_id: str, public_key: bytes, csr: bytes) -> Claim:
        """The claim to be this agent, whose recorded key is `public_key` (SubjectPublicKeyInfo, DER).

        Nothing is looked up before the key is proven: who asks learns nothing of agents whose keys it does not hold.
        Raises `InvalidArgument`.
        """
        public_key_of(csr)
        agent, key = SpiffeId.parse(spiffe_id), _key_in(public_key)
        challenge = Challenge(
            purpose=Purpose.REJOIN, trust_domain=self._trust_domain, claimant=str(agent), csr=csr, nonce=self._nonce()
        )
        return Claim(challenge=challenge, key=key, admit=partial(self._admit, agent, key_digest(key), csr))

    async def _admit(self, spiffe_id: SpiffeId, proven: str, csr: bytes, origin: str) -> IssuedSvid:
        await to_its_end(self._record(spiffe_id, proven, key_digest(public_key_of(csr)), origin))
        _log.info("agent rejoined", agent=str(spiffe_id))
        return await self._roster.issue_own(spiffe_id, csr, issuer=self._issuer)

    async def _record(self, spiffe_id: SpiffeId, proven: str, next_key: str, origin: str) -> None:
        async with self._roster.one_change_at_a_time:
            agent = self._roster.all().get(spiffe_id)
            if agent is None or proven not in (agent.key, agent.next_key):
                raise _refused(f"{spiffe_id} has not joined with this key: it was evicted, or joined anew since")
            if agent.banned:
                raise PermissionDenied(Reason.AGENT_BANNED, f"{spiffe_id} is banned")
            now = self._clock.now()
            ended = await self._key_ends.key_ended_at(spiffe_id, proven)
            if ended is None or now > ended + self._grace:
                when = "at an unknown time" if ended is None else f"at {ended.isoformat()}"
                raise _refused(
                    f"the last certificate of {spiffe_id} ended {when}, and the grace of "
                    f"{format_duration(self._grace)} (joining.rejoin_grace) is over"
                )
            changed = replace(agent, key=proven, next_key=next_key if next_key != proven else None)
            act = Act(
                actor=Actor.identity(spiffe_id),
                what="agent.rejoin",
                target=str(spiffe_id),
                detail=f"with its recorded key from {origin or 'an unknown address'}",
            )
            await self._roster.record(changed, act)


def _key_in(der: bytes) -> ProvenKey:
    try:
        return provable(load_der_public_key(der))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidArgument(Reason.REQUEST_MALFORMED, "the recorded key is not a public key in DER") from error


def _refused(why: str) -> Unauthenticated:
    return Unauthenticated(Reason.REJOIN_REFUSED, why, fix="join it with a new token")
