"""The mesh as a rotation sees it: counted as it is, also where only a part of it has changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest

from ca.agents.model import Agent
from ca.agents.roster import AgentRoster
from ca.api.sessions import AgentSession, SessionBook
from ca.entries.watch import EntryNews
from ca.rotation.gate import AgentView, Trust
from ca.rotation.mesh import Mesh
from citadel._wire import agent_api_pb2 as pb
from citadel._wire import types_pb2
from citadel.spiffe import SpiffeId
from tests.clock import FakeClock
from tests.unit.ca.values import A_TEST, NODE_1, NODE_2, NOW, SERVER, agent

HOUR = timedelta(hours=1)


@dataclass
class FakeEnds:
    """Fulfils `ca.rotation.ports.IssuedEnds`."""

    ends: dict[str, datetime] = field(default_factory=dict)
    asked: int = 0
    takes: tuple[FakeClock, float] | None = None

    async def last_ends(
        self,
        *,
        now: datetime,
        issued_after: datetime,
        without: Collection[str],
        issuer_ids: Collection[str] | None = None,
    ) -> Mapping[str, datetime]:
        del issued_after, issuer_ids
        self.asked += 1
        if self.takes is not None:
            clock, seconds = self.takes
            clock.leap(seconds)
        return {who: end for who, end in self.ends.items() if end > now and who not in without}

    async def last_end(self, *, issued_after: datetime, issuer_ids: Collection[str]) -> datetime | None:
        del issued_after, issuer_ids
        return max(self.ends.values(), default=None)

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
        self.roster = AgentRoster(trust_domain=A_TEST, store=NoStore(), clock=self.clock)  # type: ignore[arg-type]
        for each in (agent(NODE_1), agent(NODE_2)):
            self.roster.put(each)
        self.mesh = Mesh(trust_domain=A_TEST, roster=self.roster, sessions=self.book, ends=self.ends, clock=self.clock)

    def connect(self, spiffe_id: SpiffeId) -> AgentSession:
        who: Agent = agent(spiffe_id)
        session = AgentSession(agent=who, connected_at=NOW)
        self.book.open(session)
        return session

    def proxies(self, sequence: int) -> tuple[int, int]:
        census = self.mesh.counting.census(trust=trust(sequence), order_id="")
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


def test_how_far_an_agent_is_counts_also_while_it_connects_anew_and_has_not_said_it_again() -> None:
    scene = Scene()

    def told(order_id: str) -> AgentSession:
        session = scene.connect(NODE_1)
        news = EntryNews(is_everything=True, entries={})
        assert list(session.updates(news=news, bundles={}, revision=1, orders=[pb.RenewOrder(id=order_id)]))
        return session

    def said(session: AgentSession, order_id: str, *, left: int) -> None:
        progress = pb.OrderProgress(order_id=order_id, covered=2, left=left)
        session.take(pb.AgentMessage(progress=pb.RenewProgress(orders=[progress])))

    def renewed(order_id: str) -> tuple[int, int]:
        census = scene.mesh.counting.census(trust=trust(1), order_id=order_id)
        return census.svids_renewed, census.svids

    first = told("one")
    assert renewed("one") == (0, 0)
    said(first, "one", left=1)
    assert renewed("one") == (1, 2)
    again = told("one")
    assert renewed("") == (0, 0), "without an order nobody is far"
    assert renewed("one") == (1, 2)
    scene.book.close(first)
    scene.book.close(again)
    assert renewed("one") == (0, 0), "who is away is not counted"
    again = told("one")
    assert renewed("one") == (1, 2)
    said(again, "one", left=0)
    assert renewed("one") == (2, 2)
    assert renewed("two") == (0, 0)


async def test_who_is_connected_is_not_away_whatever_the_ledger_said_before() -> None:
    scene = Scene()
    scene.ends.ends = {str(NODE_1): NOW + HOUR, str(NODE_2): NOW + HOUR}
    scene.connect(NODE_1)

    async def away() -> list[str]:
        return [holder.name for holder in await scene.mesh.away(NOW, issued_after=NOW, issuer_ids=None, at_once=False)]

    assert await away() == ["node-2"]
    scene.connect(NODE_2)
    assert await away() == []


async def test_the_ledger_is_asked_when_somebody_leaves_and_not_because_somebody_comes() -> None:
    scene = Scene()
    scene.connect(NODE_1)

    async def asked(**more: Any) -> int:
        question: dict[str, Any] = {"issued_after": NOW, "issuer_ids": None, "at_once": False}
        await scene.mesh.away(NOW, **(question | more))
        return scene.ends.asked

    assert [await asked(), await asked()] == [1, 1]
    two = scene.connect(NODE_2)
    assert await asked() == 1
    scene.book.close(two)
    assert await asked() == 1, "it was not connected when the ledger was asked"
    scene.connect(NODE_2)
    assert await asked(at_once=True) == 2
    scene.book.close(next(iter(scene.book.newest().values())))
    assert await asked() == 3
    assert await asked(issuer_ids=["i1"]) == 4
    await scene.clock.advance(1.9)
    assert await asked(issuer_ids=["i1"]) == 4
    await scene.clock.advance(0.2)
    assert await asked(issuer_ids=["i1"]) == 5, "what was revoked since counts no more"


async def test_a_ledger_that_takes_long_is_asked_seldom() -> None:
    scene = Scene()
    scene.ends.takes = (clock := scene.clock, 3.0)

    async def asked() -> int:
        await scene.mesh.away(NOW, issued_after=NOW, issuer_ids=None, at_once=False)
        return scene.ends.asked

    assert await asked() == 1
    clock.leap(59)
    assert await asked() == 1
    clock.leap(2)
    assert await asked() == 2


@pytest.mark.invariant(3, 4)
async def test_whoever_must_hear_of_a_root_differs_from_whoever_depends_on_one() -> None:
    scene = Scene()
    local, evicted = SpiffeId(A_TEST, "/citadel/local/uid-0"), SpiffeId(A_TEST, "/citadel/agent/gone")
    scene.ends.ends = {str(each): NOW + HOUR for each in (NODE_1, NODE_2, local, evicted, SERVER)}
    scene.roster.put(agent(NODE_2, banned=True))

    async def away(*issuers: str) -> list[str]:
        ids = issuers or None
        found = await scene.mesh.away(NOW, issued_after=NOW, issuer_ids=ids, at_once=True)
        return [holder.name for holder in found]

    assert await away() == ["node-1"], "nobody else would come and take a bundle"
    assert await away("i1") == ["gone", "node-1", "node-2", str(local)], "peers take the certificates of all of these"


async def test_an_agent_that_joined_and_never_connected_counts_as_away() -> None:
    scene = Scene()
    census = scene.mesh.counting.census(trust=trust(1), order_id="")
    assert (census.agents, census.agents_away) == (0, 2)
    scene.connect(NODE_1)
    scene.roster.put(agent(NODE_2, banned=True))
    census = scene.mesh.counting.census(trust=trust(1), order_id="")
    assert (census.agents, census.agents_away) == (1, 0)


def test_streams_that_were_closed_are_judged_and_not_counted() -> None:
    scene = Scene()
    session = scene.connect(NODE_1)
    (closed,) = proxy(1, holds=1).streams.reports
    closed.resources.add(name="default", spiffe_id="spiffe://a.test/web", serial="0a")
    closed.closed = True
    closed.closed_for.FromSeconds(3)
    scene.clock.leap(10)
    session.take(pb.AgentMessage(streams=pb.Streams(reports=[closed])), at=scene.clock.monotonic())
    scene.clock.leap(5)
    views: list[AgentView] = []
    scene.mesh.connected("a question", lambda view: views.append(view) or [], "")  # type: ignore[func-returns-value] # notes it
    assert [(each.report, each.ago) for each in views[0].closed] == [(closed, timedelta(seconds=8))]
    assert list(views[0].streams) == []
    assert scene.proxies(1) == (0, 0)
    assert scene.mesh.counting.svid_count() == 0
    assert scene.mesh.counting.streams_without_bundle() == []


def test_streams_whose_process_never_asked_for_a_bundle_are_named() -> None:
    scene = Scene()
    session = scene.connect(NODE_1)
    bundle = types_pb2.ResourceReport(name="ROOTCA", trust_domain=A_TEST.name)
    foreign = types_pb2.ResourceReport(name="spiffe://b.test", trust_domain="b.test")
    keys_for_tokens = types_pb2.ResourceReport(name="jwt", trust_domain=A_TEST.name, jwt_bundle=True)
    svid = types_pb2.ResourceReport(name="default", spiffe_id="spiffe://a.test/web")
    reports = [
        types_pb2.StreamReport(stream_id="1", pid=7, resources=[svid]),  # an Envoy has a stream for each secret
        types_pb2.StreamReport(stream_id="2", pid=7, resources=[bundle]),
        types_pb2.StreamReport(stream_id="3", pid=8, resources=[svid, bundle]),
        types_pb2.StreamReport(stream_id="4", pid=9, resources=[svid]),
        types_pb2.StreamReport(stream_id="5", pid=9, resources=[foreign]),
        types_pb2.StreamReport(stream_id="7", pid=11, resources=[svid, keys_for_tokens]),
        types_pb2.StreamReport(stream_id="6", pid=10, resources=[types_pb2.ResourceReport(name="waits")]),
    ]
    session.take(pb.AgentMessage(streams=pb.Streams(reports=reports)))
    scene.connect(NODE_2).take(pb.AgentMessage(streams=pb.Streams(reports=reports[1:2])))
    assert scene.mesh.counting.streams_without_bundle() == ["node-1/4", "node-1/7"]
