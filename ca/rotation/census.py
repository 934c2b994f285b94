"""What people are told of the mesh: how many there are, and how far they have come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ca.agents.roster import AgentRoster
from ca.api.sessions import AgentSession, SessionBook
from ca.insight.proxies import agent_name
from ca.rotation import gate
from ca.rotation.gate import Trust
from citadel._wire import agent_api_pb2, types_pb2
from citadel.spiffe import SpiffeId, TrustDomain


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """How many there are, and how far they have come."""

    agents: int
    agents_away: int
    proxies: int
    proxies_acknowledged: int
    svids: int
    svids_renewed: int


class Counting:
    """Counts over what connected agents have said. People alone go by it: what is waited for, `Mesh` says."""

    def __init__(self, *, trust_domain: TrustDomain, roster: AgentRoster, sessions: SessionBook) -> None:
        self._trust_domain = trust_domain
        self._roster = roster
        self._sessions = sessions
        # By what it was counted for, so that whoever watches a rotation costs little where nothing changes.
        self._counted: dict[AgentSession, tuple[tuple[int, Trust], int, int]] = {}
        self._said: dict[SpiffeId, agent_api_pb2.OrderProgress] = {}  # of the order with this id
        self._said_of = ""

    def census(self, *, trust: Trust, order_id: str) -> Census:
        """Counts over all connected agents."""
        sessions = self._sessions.newest()
        before, self._counted = self._counted, {}
        for session in sessions.values():
            known = before.get(session)
            if known is None or known[0] != (session.changes, trust):
                known = ((session.changes, trust), *self._proxies(session, trust))
            self._counted[session] = known
        progress = self._progress(sessions, order_id) if order_id else []
        joined = sum(1 for agent in self._roster.all().values() if not agent.banned)
        covered = sum(each.covered for each in progress)
        return Census(
            agents=len(sessions),
            agents_away=max(0, joined - len(sessions)),
            proxies=sum(proxies for _, proxies, _ in self._counted.values()),
            proxies_acknowledged=sum(acknowledged for _, _, acknowledged in self._counted.values()),
            svids=covered,
            svids_renewed=max(0, covered - sum(each.left for each in progress)),
        )

    def streams_without_bundle(self) -> list[str]:
        """Streams that have an identity and never asked for a bundle: nobody knows what they trust."""
        found: list[str] = []
        for agent, session in self._sessions.newest().items():
            streams = session.streams.values()
            # An Envoy opens a stream of its own for each secret.
            with_bundle = {stream.pid for stream in streams if self._has_bundle(stream)}
            found += (
                f"{agent_name(agent)}/{stream.stream_id}"
                for stream in streams
                if stream.pid not in with_bundle and any(resource.spiffe_id for resource in stream.resources)
            )
        return found

    def svid_count(self) -> int:
        """How many different certificates the connected proxies hold."""
        return len(
            {
                resource.serial
                for session in self._sessions.newest().values()
                for stream in session.streams.values()
                for resource in stream.resources
                if resource.serial
            }
        )

    def _progress(self, sessions: Mapping[SpiffeId, AgentSession], order_id: str) -> list[agent_api_pb2.OrderProgress]:
        """What each said last of an order: whoever connects anew, as at a change of roots, says it a moment later."""
        if order_id != self._said_of:
            self._said_of, self._said = order_id, {}
        for agent, session in sessions.items():
            if (said := session.progress.get(order_id)) is not None:
                self._said[agent] = said
        return [self._said[agent] for agent in sessions if agent in self._said]

    def _proxies(self, session: AgentSession, trust: Trust) -> tuple[int, int]:
        """Of this agent's proxies those that asked for a bundle, and of these those that have acknowledged it."""
        said = [gate.has_acknowledged(stream, trust) for stream in session.streams.values()]
        return len(said) - said.count(None), said.count(True)

    def _has_bundle(self, stream: types_pb2.StreamReport) -> bool:
        own = (each for each in stream.resources if each.trust_domain == self._trust_domain.name)
        return any(not resource.jwt_bundle for resource in own)
