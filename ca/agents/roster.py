"""Which agents there are, and whether who calls is one of them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.agents.model import Agent
from ca.audit.model import Act
from ca.issuance.csr import public_key_of
from ca.issuance.issuer import Issuer, key_digest
from ca.issuance.press import IssuedSvid
from citadel.clock import Clock
from citadel.errors import CitadelError, PermissionDenied, Reason, Unauthenticated
from citadel.reserved import is_agent_id
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.svid import X509Svid
from citadel.tasks import to_its_end

_REPLACED_KEY_GRACE: Final = timedelta(seconds=30)
_CERTIFICATES_KEPT: Final = 1024  # some 5 KiB each


class AgentStore(Protocol):
    """Where agents are durable."""

    async def load(self) -> Sequence[Agent]:
        """Every agent."""
        ...

    async def set_keys(self, spiffe_id: SpiffeId, *, key: str, next_key: str | None) -> None:
        """Record the agent's keys."""
        ...

    async def record(self, agent: Agent, *acts: Act, at: datetime) -> None:
        """Put the agent in the place of the one with its ID, if there is one, and note the acts with it."""
        ...

    async def remove(self, spiffe_id: SpiffeId, act: Act, *, at: datetime) -> None:
        """Forget the agent, and note the act with it."""
        ...


class AgentRoster:
    """The agents in memory, the gate that every call of theirs passes, and the renewal of their own identity."""

    def __init__(self, *, trust_domain: TrustDomain, store: AgentStore, clock: Clock) -> None:
        self._trust_domain = trust_domain
        self._store = store
        self._clock = clock
        self._agents: dict[SpiffeId, Agent] = {}
        self._watchers: defaultdict[SpiffeId, set[asyncio.Event]] = defaultdict(set)
        # Keys that a renewal replaced a moment ago: what the agent began under the old one may end in peace. A re-join
        # gives no such grace.
        self._just_replaced: dict[SpiffeId, tuple[str, datetime]] = {}
        # Whoever changes an agent's row reads it under this lock: otherwise a renewal that began before a re-join could
        # put the keys of the machine that was replaced back in force.
        self.one_change_at_a_time = asyncio.Lock()
        # Every call shows the certificate of its connection, and parsing it says the same each time. What may change,
        # the agent's row and the time, `check` looks at anew.
        self._parsed = lru_cache(_CERTIFICATES_KEPT)(self._parse)
        self._digest_of = lru_cache(_CERTIFICATES_KEPT)(_digest_of)

    async def start(self) -> None:
        """Load the agents."""
        self._agents = {agent.spiffe_id: agent for agent in await self._store.load()}

    def all(self) -> Mapping[SpiffeId, Agent]:
        """Every agent by its ID."""
        return self._agents

    def put(self, agent: Agent) -> None:
        """Take an agent as the store has just taken it, and wake its open streams."""
        self._agents[agent.spiffe_id] = agent
        self._just_replaced.pop(agent.spiffe_id, None)
        self._wake(agent.spiffe_id)

    async def record(self, agent: Agent, *acts: Act) -> None:
        """Put the agent in the place of the one with its ID. The caller holds `one_change_at_a_time`."""
        await self._store.record(agent, *acts, at=self._clock.now())
        self.put(agent)

    async def remove(self, spiffe_id: SpiffeId, act: Act) -> None:
        """Forget the agent, and wake its open streams. The caller holds `one_change_at_a_time`."""
        await self._store.remove(spiffe_id, act, at=self._clock.now())
        del self._agents[spiffe_id]
        self._just_replaced.pop(spiffe_id, None)
        self._wake(spiffe_id)

    def watch(self, event: asyncio.Event, spiffe_id: SpiffeId) -> None:
        """Set `event` at every change of this agent's row."""
        self._watchers[spiffe_id].add(event)

    def unwatch(self, event: asyncio.Event, spiffe_id: SpiffeId) -> None:
        """Stop setting `event`."""
        self._watchers[spiffe_id].discard(event)
        if not self._watchers[spiffe_id]:
            del self._watchers[spiffe_id]

    def is_banned(self, spiffe_id: SpiffeId) -> bool:
        """Whether an agent of this ID is banned. One that never joined is not."""
        agent = self._agents.get(spiffe_id)
        return agent is not None and agent.banned

    def is_shut_out(self, spiffe_id: SpiffeId) -> bool:
        """Whether nothing may be signed on this one's behalf: an agent that is banned, or evicted.

        The ledger asks before it commits, and whoever answers an agent asks once more: the commit may have been under
        way when the ban came.
        """
        return is_agent_id(spiffe_id) and (spiffe_id not in self._agents or self._agents[spiffe_id].banned)

    def refuse_shut_out(self, spiffe_id: SpiffeId) -> None:
        """Raises `PermissionDenied` (`agent_banned`, `agent_unknown`) where `is_shut_out`."""
        if not self.is_shut_out(spiffe_id):
            return
        if self.is_banned(spiffe_id):
            raise PermissionDenied(Reason.AGENT_BANNED, f"{spiffe_id} is banned")
        raise PermissionDenied(
            Reason.AGENT_UNKNOWN, f"{spiffe_id} is not a joined agent", fix="join it with a new token"
        )

    async def issue_own(self, spiffe_id: SpiffeId, csr: bytes, *, issuer: Issuer) -> IssuedSvid:
        """An SVID for an agent whose key is on record, unless it was banned or evicted meanwhile."""
        svid = await issuer.issue_reserved(spiffe_id, csr)
        self.refuse_shut_out(spiffe_id)
        return svid

    def recognise(self, leaf_pem: bytes) -> Agent:
        """The agent as `authenticate` gives it, waiting for nothing and changing nothing."""
        return self.check(self._parsed(leaf_pem))

    async def authenticate(self, leaf_pem: bytes) -> tuple[Agent, X509Svid]:
        """The agent whose certificate the TLS layer verified, and that certificate.

        A valid chain is not enough, see `check`. Raises `Unauthenticated` or `PermissionDenied` with the reason.
        """
        svid = self._parsed(leaf_pem)
        agent = self.check(svid)
        if self._digest_of(svid) == agent.next_key:
            agent = await self._promote(svid)
        return agent, svid

    def check(self, svid: X509Svid) -> Agent:
        """The agent's row, if this certificate may act for it now.

        Its row must exist and not be banned, the certificate must not have ended, and its key must be a recorded one.
        """
        self.refuse_shut_out(svid.spiffe_id)
        agent = self._agents[svid.spiffe_id]
        if svid.not_after <= self._clock.now():
            # gRPC checks this at the handshake only; a connection can outlive its certificate.
            raise Unauthenticated(
                Reason.AGENT_SVID_EXPIRED,
                f"the certificate of {svid.spiffe_id} has expired",
                fix="connect anew with the renewed certificate",
            )
        if self._digest_of(svid) not in (agent.key, agent.next_key, self._just_replaced_key(agent.spiffe_id)):
            raise PermissionDenied(
                Reason.AGENT_KEY_MISMATCH,
                f"the certificate of {svid.spiffe_id} is not for its recorded key",
                fix="another machine may run under this identity; join it anew with a token",
            )
        return agent

    async def renew(self, svid: X509Svid, csr: bytes, *, issuer: Issuer) -> IssuedSvid:
        """A new SVID for an authenticated agent. Its new key is recorded before the certificate leaves."""
        await to_its_end(self._expect(svid, key_digest(public_key_of(csr))))
        return await self.issue_own(svid.spiffe_id, csr, issuer=issuer)

    async def _expect(self, svid: X509Svid, next_key: str) -> None:
        async with self.one_change_at_a_time:
            agent = self.check(svid)
            if next_key != agent.key:
                await self._record(replace(agent, next_key=next_key))

    async def _promote(self, svid: X509Svid) -> Agent:
        return await to_its_end(self._promote_in_turn(svid))

    async def _promote_in_turn(self, svid: X509Svid) -> Agent:
        async with self.one_change_at_a_time:
            agent = self.check(svid)
            if self._digest_of(svid) == agent.next_key:
                replaced, until = agent.key, self._clock.now() + _REPLACED_KEY_GRACE
                agent = replace(agent, key=agent.next_key, next_key=None)
                await self._record(agent)
                self._just_replaced[agent.spiffe_id] = (replaced, until)
            return agent

    def _wake(self, spiffe_id: SpiffeId) -> None:
        for event in self._watchers.get(spiffe_id, ()):
            event.set()

    def _just_replaced_key(self, spiffe_id: SpiffeId) -> str | None:
        key, until = self._just_replaced.get(spiffe_id, (None, self._clock.now()))
        return key if self._clock.now() < until else None

    async def _record(self, agent: Agent) -> None:
        await self._store.set_keys(agent.spiffe_id, key=agent.key, next_key=agent.next_key)
        self.put(agent)

    def _parse(self, leaf_pem: bytes) -> X509Svid:
        try:
            leaf = x509.load_pem_x509_certificate(leaf_pem)
            svid = X509Svid.from_der([leaf.public_bytes(Encoding.DER)])
        except (ValueError, CitadelError) as error:
            raise Unauthenticated(
                Reason.AGENT_SVID_REFUSED, f"the client certificate is not an X509-SVID: {error}"
            ) from error
        if not svid.spiffe_id.is_member_of(self._trust_domain) or not is_agent_id(svid.spiffe_id):
            raise PermissionDenied(Reason.AGENT_SVID_REFUSED, f"{svid.spiffe_id} is not the identity of an agent")
        return svid


def _digest_of(svid: X509Svid) -> str:
    return key_digest(svid.leaf.public_key())  # type: ignore[arg-type]  # digests any key; a wrong kind matches none
