"""`citadel.v1.AgentAdmin`: what administrators ask about agents, and do to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from ca.agents.administration import AgentAdministration
from ca.agents.model import Agent, OwnSvid
from ca.agents.roster import AgentRoster
from ca.agents.sightings import Sightings
from ca.api.listeners import ActorOf
from ca.api.sessions import AgentSession, SessionBook
from ca.entries.directory import EntryDirectory
from citadel._wire import agents_pb2 as pb
from citadel._wire import agents_pb2_grpc
from citadel.clock import Clock
from citadel.spiffe import SpiffeId
from citadel.wire import entry_to_wire, to_timestamp

_PAGE: Final = 100
_MOST_PAGE: Final = 1000


class OwnSvids(Protocol):
    """What the ledger knows of the agents' own SVIDs."""

    async def newest(self, agent_ids: Sequence[SpiffeId]) -> Mapping[SpiffeId, OwnSvid]:
        """The newest of each agent that has one. Raises `Unavailable` (`store_unavailable`)."""
        ...


class AgentAdminService(agents_pb2_grpc.AgentAdminServicer):
    """Lists, shows, bans, unbans and evicts agents. Served on the local socket only."""

    def __init__(
        self,
        *,
        administration: AgentAdministration,
        roster: AgentRoster,
        directory: EntryDirectory,
        sessions: SessionBook,
        sightings: Sightings,
        own_svids: OwnSvids,
        clock: Clock,
        actor_of: ActorOf,
    ) -> None:
        self._administration = administration
        self._roster = roster
        self._directory = directory
        self._sessions = sessions
        self._sightings = sightings
        self._own_svids = own_svids
        self._clock = clock
        self._actor_of = actor_of

    async def ListAgents(self, request: pb.ListAgentsRequest, context: Any) -> pb.ListAgentsResponse:
        sessions = self._sessions.newest()
        size = min(request.page_size or _PAGE, _MOST_PAGE)
        # Pages go by SPIFFE ID, so agents that come or go in between never shift the others.
        found = sorted(
            (
                agent
                for agent in self._roster.all().values()
                if str(agent.spiffe_id) > request.page_token
                and request.state in (pb.ListAgentsRequest.STATE_UNSPECIFIED, _state(agent, sessions))
            ),
            key=lambda agent: str(agent.spiffe_id),
        )
        page = found[:size]
        token = str(page[-1].spiffe_id) if len(found) > size else ""
        return pb.ListAgentsResponse(agents=await self._messages(page, sessions), next_page_token=token)

    async def GetAgent(self, request: pb.GetAgentRequest, context: Any) -> pb.AgentDetails:
        agent = self._administration.find(request.agent)
        sessions = self._sessions.newest()
        session = sessions.get(agent.spiffe_id)
        entries = self._directory.for_agent(agent, self._clock.now())
        (message,) = await self._messages([agent], sessions)
        return pb.AgentDetails(
            agent=message,
            entries=map(entry_to_wire, entries.values()),
            streams=session.streams.values() if session is not None else (),
        )

    async def BanAgent(self, request: pb.BanAgentRequest, context: Any) -> pb.Agent:
        by = self._actor_of(context)
        return await self._message(await self._administration.ban(request.agent, why=request.reason, by=by))

    async def UnbanAgent(self, request: pb.UnbanAgentRequest, context: Any) -> pb.Agent:
        by = self._actor_of(context)
        return await self._message(await self._administration.unban(request.agent, why=request.reason, by=by))

    async def EvictAgent(self, request: pb.EvictAgentRequest, context: Any) -> pb.Agent:
        by = self._actor_of(context)
        return await self._message(await self._administration.evict(request.agent, why=request.reason, by=by))

    async def _message(self, agent: Agent) -> pb.Agent:
        (message,) = await self._messages([agent], self._sessions.newest())
        return message

    async def _messages(self, page: Sequence[Agent], sessions: Mapping[SpiffeId, AgentSession]) -> list[pb.Agent]:
        svids = await self._own_svids.newest([agent.spiffe_id for agent in page])
        return [self._told(agent, sessions.get(agent.spiffe_id), svids.get(agent.spiffe_id)) for agent in page]

    def _told(self, agent: Agent, session: AgentSession | None, svid: OwnSvid | None) -> pb.Agent:
        last_seen = self._sightings.of(agent.spiffe_id) if session is None else self._clock.now()
        return pb.Agent(
            spiffe_id=str(agent.spiffe_id),
            connected=session is not None,
            banned=agent.banned,
            ban_reason=agent.ban_reason,
            version=session.version if session else "",
            joined_by=agent.joined_by.value,
            joined_at=to_timestamp(agent.joined_at),
            connected_at=to_timestamp(session.connected_at) if session else None,
            last_seen=to_timestamp(last_seen) if last_seen else None,
            svid_serial=svid.serial if svid else "",
            svid_not_after=to_timestamp(svid.not_after) if svid else None,
            streams=len(session.streams) if session else 0,
            acknowledged_revision=session.acknowledged_revision if session else 0,
            selectors=sorted(map(str, agent.selectors)),
        )


def _state(agent: Agent, sessions: Mapping[SpiffeId, AgentSession]) -> int:
    if agent.banned:
        return pb.ListAgentsRequest.BANNED
    return pb.ListAgentsRequest.CONNECTED if agent.spiffe_id in sessions else pb.ListAgentsRequest.AWAY
