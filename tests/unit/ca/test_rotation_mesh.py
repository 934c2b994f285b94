"""The mesh as a rotation sees it: counted as it is, also where only a part of it has changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ca.agents.model import Agent
from ca.agents.roster import AgentRoster
from ca.api.sessions import AgentSession, SessionBook
from ca.rotation.gate import Trust
from ca.rotation.mesh import Mesh
from citadel._wire import agent_api_pb2 as pb
from citadel._wire import types_pb2
from citadel.spiffe import SpiffeId
from tests.clock import FakeClock
from tests.unit.ca.values import A_TEST, NODE_1, NODE_2, NOW, agent

HOUR = timedelta(hours=1)


@dataclass
class FakeEnds:
    """Fulfils `ca.rotation.ports.IssuedEnds`."""

    ends: dict[str, datetime] = field(default_factory=dict)

    async def last_ends(self, *, now: datetime, issuer_ids: Collection[str] | None = None) -> Mapping[str, datetime]:
        del issuer_ids
        return {who: end for who, end in self.ends.items() if end > now}

    async def last_end_of_workloads(
        self, agent: SpiffeId, *, issued_before: datetime, now: datetime, issuer_ids: Collection[str] | None = None
    ) -> datetime | None:
        del issued_before, issuer_ids
        end = self.ends.get(str(agent))
        return end if end is not None and end > now else None


class NoStore:
    """The roster is filled by hand."""


def trust(sequence: int) -> Trust:
    return Trust(trust_domain=A_TEST.name, sequence=sequence, lists="")


def proxy(number: int, *, holds: int) -> pb.AgentMessage:
    bundle = types_pb2.ResourceReport(name="ROOTCA", trust_domain=A_TEST.name, held_bundle_sequence=holds)
    return pb.AgentMessage(
        streams=pb.Streams(reports=[types_pb2.StreamReport(stream_id=str(number), resources=[bundle])])
    )


class Scene:
    """A mesh of two agents, of which those that are opened are connected."""

    def __init__(self) -> None:
        self.clock = FakeClock(NOW)
        self.book = SessionBook(most_silent=2, hello_timeout=timedelta(seconds=10))
        self.ends = FakeEnds()
        roster = AgentRoster(trust_domain=A_TEST, store=NoStore(), clock=self.clock)  # type: ignore[arg-type]
        for each in (agent(NODE_1), agent(NODE_2)):
            roster.put(each)
        self.mesh = Mesh(trust_domain=A_TEST, roster=roster, sessions=self.book, ends=self.ends, clock=self.clock)

    def connect(self, spiffe_id: SpiffeId) -> AgentSession:
        who: Agent = agent(spiffe_id)
        session = AgentSession(agent=who, connected_at=NOW)
        self.book.open(session)
        return session

    def proxies(self, sequence: int) -> tuple[int, int]:
        census = self.mesh.census(trust=trust(sequence), order_id="")
        return census.proxies, census.proxies_acknowledged


def test_the_census_follows_what_agents_say_what_is_asked_and_who_is_connected() -> None:
    scene = Scene()
    one, two = scene.connect(NODE_1), scene.connect(NODE_2)
    one.take(proxy(1, holds=1))
    two.take(proxy(1, holds=2))
    assert [scene.proxies(sequence) for sequence in (1, 2, 3, 1)] == [(2, 2), (2, 1), (2, 0), (2, 2)]
    two.take(proxy(2, holds=1))
    assert scene.proxies(2) == (3, 1)
    one.take(proxy(1, holds=2))
    assert scene.proxies(2) == (3, 2)
    scene.book.close(two)
    assert scene.proxies(2) == (1, 1)
    scene.connect(NODE_1)
    assert scene.proxies(2) == (0, 0)


async def test_who_is_connected_is_not_away_whatever_the_ledger_said_before() -> None:
    scene = Scene()
    scene.ends.ends = {str(NODE_1): NOW + HOUR, str(NODE_2): NOW + HOUR}
    scene.connect(NODE_1)

    async def away() -> list[str]:
        return [holder.name for holder in await scene.mesh.away(NOW, issuer_ids=None, at_once=False)]

    assert await away() == ["node-2"]
    scene.connect(NODE_2)
    assert await away() == []
