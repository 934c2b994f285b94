"""Gathering what the server knows of one identity. Reads memory, and two rows of the store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime
from typing import Final, Protocol

from ca.agents.model import Agent
from ca.agents.roster import AgentRoster
from ca.api.sessions import AgentSession, SessionBook
from ca.entries.directory import EntryDirectory
from ca.entries.rules import is_alias
from ca.insight.identity_facts import Grant, GrantingAgent, IdentityFacts, IssuedRecord, RefusalRecord
from ca.insight.near import near_misses
from ca.insight.proxies import Proxy, ProxyFilter, list_proxies
from citadel._wire import types_pb2
from citadel.clock import Clock
from citadel.entry import Entry
from citadel.reserved import is_agent_id
from citadel.spiffe import SpiffeId, TrustDomain

_MOST_HOLDERS: Final = 1000


class Records(Protocol):
    """What was recorded of an identity."""

    async def last_issued(self, spiffe_id: SpiffeId) -> IssuedRecord | None:
        """The newest certificate. Raises `Unavailable` (`store_unavailable`)."""
        ...

    async def last_refusal(self, concerning: Collection[SpiffeId]) -> RefusalRecord | None:
        """The newest refusal by or about one of these. Raises `Unavailable` (`store_unavailable`)."""
        ...


class IdentityGatherer:
    """Collects `IdentityFacts`."""

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        directory: EntryDirectory,
        roster: AgentRoster,
        sessions: SessionBook,
        records: Records,
        knows_bundle: Callable[[TrustDomain], bool],
        clock: Clock,
    ) -> None:
        """`knows_bundle` says of a foreign trust domain whether its bundle is known."""
        self._trust_domain = trust_domain
        self._directory = directory
        self._roster = roster
        self._sessions = sessions
        self._records = records
        self._knows_bundle = knows_bundle
        self._clock = clock

    async def gather(self, spiffe_id: SpiffeId) -> tuple[IdentityFacts, list[Proxy]]:
        """The facts, and the streams that have a secret of this identity. Raises `Unavailable` without the store."""
        now, sessions = self._clock.now(), self._sessions.newest()
        entries = self._directory.all()
        grants = tuple(
            Grant(entry=entry, agents=tuple(self._agents_of(entry, sessions, now)))
            for entry in entries.values()
            if entry.spiffe_id == spiffe_id and not is_alias(entry, self._trust_domain)
        )
        partners = {domain for grant in grants for domain in grant.entry.federates_with}
        agents = {agent.spiffe_id for grant in grants for agent in grant.agents}
        proxies = list_proxies(sessions, ProxyFilter(spiffe_id=str(spiffe_id)), after=("", ""), limit=_MOST_HOLDERS)
        facts = IdentityFacts(
            spiffe_id=spiffe_id,
            trust_domain=self._trust_domain,
            now=now,
            grants=grants,
            near_misses=() if grants else near_misses(spiffe_id, (entry.spiffe_id for entry in entries.values())),
            last_issued=await self._records.last_issued(spiffe_id),
            last_refusal=await self._records.last_refusal({spiffe_id, *agents}) if grants else None,
            holders=tuple(proxy.name for proxy in proxies),
            refusals=tuple(_refusals(proxies, spiffe_id)),
            without_bundle=tuple(sorted(domain for domain in partners if not self._knows_bundle(domain))),
        )
        return facts, proxies

    def _agents_of(
        self, entry: Entry, sessions: Mapping[SpiffeId, AgentSession], now: datetime
    ) -> Iterator[GrantingAgent]:
        if is_agent_id(entry.parent_id):
            agent = self._roster.all().get(entry.parent_id)
            yield _granting(entry.parent_id, agent, sessions.get(entry.parent_id), needed=entry.revision)
            return
        aliases = [
            alias
            for alias in self._directory.all().values()
            if alias.spiffe_id == entry.parent_id and is_alias(alias, self._trust_domain) and not alias.has_expired(now)
        ]
        for agent in self._roster.all().values():
            revisions = [alias.revision for alias in aliases if alias.matches(agent.selectors)]
            if revisions:
                needed = max(entry.revision, *revisions)
                yield _granting(agent.spiffe_id, agent, sessions.get(agent.spiffe_id), needed=needed)


def _granting(spiffe_id: SpiffeId, agent: Agent | None, session: AgentSession | None, *, needed: int) -> GrantingAgent:
    return GrantingAgent(
        spiffe_id=spiffe_id,
        joined=agent is not None,
        banned=agent is not None and agent.banned,
        connected=session is not None,
        acknowledged_revision=session.acknowledged_revision if session else 0,
        needed_revision=needed,
    )


def _refusals(proxies: list[Proxy], spiffe_id: SpiffeId) -> Iterator[tuple[str, str]]:
    for proxy in proxies:
        for resource in proxy.report.resources:
            if resource.spiffe_id == str(spiffe_id) and resource.state == types_pb2.ResourceReport.REFUSED:
                yield proxy.name, resource.refusal
