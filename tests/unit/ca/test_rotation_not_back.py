"""Proxies that an agent had before it was started anew: no stream tells of them, and still they are waited for."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ca.agents.roster import AgentRoster
from ca.api.sessions import AgentSession, SessionBook
from ca.rotation.mesh import Mesh
from ca.rotation.model import Holder
from ca.store.agents import SqlAgentStore
from ca.store.database import Database
from ca.store.rotations import SqlIssuedEnds
from citadel._wire import agent_api_pb2 as pb
from citadel.wire import to_duration
from tests.clock import FakeClock
from tests.unit.ca.records import row, writing
from tests.unit.ca.values import A_TEST, NODE_1, NODE_2, agent

pytestmark = pytest.mark.invariant(3, 4)

OLD, OTHER = "o" * 32, "p" * 32
SECOND = timedelta(seconds=1)


class Scene:
    """A mesh with real stores, whose agents connect and begin when a test says so."""

    def __init__(self, database: Database, clock: FakeClock) -> None:
        self.clock = clock
        self.sessions = SessionBook(most_silent=1, hello_timeout=SECOND)
        self.mesh = Mesh(
            trust_domain=A_TEST,
            roster=AgentRoster(trust_domain=A_TEST, store=SqlAgentStore(database=database), clock=clock),
            sessions=self.sessions,
            ends=SqlIssuedEnds(database=database),
            clock=clock,
        )

    def connects(self, *, serving_for: float | None, process: str = "") -> None:
        """The agent `node-1` opens its stream, and has answered proxies for so many seconds."""
        session = AgentSession(
            agent=agent(NODE_1), connected_at=self.clock.now(), connected_monotonic=self.clock.monotonic()
        )
        told = to_duration(timedelta(seconds=serving_for)) if serving_for is not None else None
        session.take(pb.AgentMessage(hello=pb.Hello(serving_for=told, process=process)))
        self.sessions.open(session)

    async def waits_for(self, *issuers: str) -> list[Holder]:
        return await self.mesh.not_back(self.clock.now(), issuer_ids=issuers or None)


@pytest.fixture
async def scene(database: Database, clock: FakeClock) -> Scene:
    """At 100 s, when certificates of 60 s and of an hour had been had 10 s before."""
    await clock.advance(100)
    made = Scene(database, clock)
    now = clock.now()
    rows = [
        row(issuer_id=OLD, issued_at=now - 10 * SECOND, not_after=now + 50 * SECOND),
        row(issuer_id=OLD, issued_at=now - 10 * SECOND, not_after=now + 20 * SECOND),
        row(issuer_id=OTHER, issued_at=now - 10 * SECOND, not_after=now + 3 * SECOND),
        row(issuer_id=OTHER, issued_at=now + 2 * SECOND, not_after=now + 3600 * SECOND),  # by the agent as it is now
        row(issuer_id=OTHER, issued_at=now - 10 * SECOND, not_after=now + 3600 * SECOND, spiffe_id=NODE_1, entry_id=""),
        row(NODE_2, issuer_id=OLD, issued_at=now - 10 * SECOND, not_after=now + 3600 * SECOND),
    ]
    async with writing(database) as ledger:
        await ledger.append(rows)
    return made


async def test_they_have_the_time_in_which_an_envoy_comes_back(scene: Scene) -> None:
    scene.connects(serving_for=1)
    (holder,) = await scene.waits_for()
    assert holder.name == "node-1"
    assert "proxies from before may not have found it yet" in holder.words
    assert holder.until == scene.clock.now() + 34 * SECOND
    await scene.clock.advance(33)
    assert await scene.waits_for()
    await scene.clock.advance(2)
    assert not await scene.waits_for()


async def test_they_are_not_waited_for_any_longer_than_what_they_hold_is_valid(scene: Scene) -> None:
    scene.connects(serving_for=1)
    (holder,) = await scene.waits_for(OTHER)
    assert holder.until == scene.clock.now() + 3 * SECOND
    assert not await scene.waits_for("q" * 32), "what they hold is of other authorities"


async def test_an_agent_that_has_answered_for_long_reports_them_itself(scene: Scene) -> None:
    scene.connects(serving_for=36)
    assert not await scene.waits_for()


async def test_an_agent_that_had_nothing_before_is_not_waited_for(scene: Scene) -> None:
    await scene.clock.advance(5)
    scene.connects(serving_for=20)  # since 15 s before the first certificate
    assert not await scene.waits_for()


@pytest.mark.parametrize(("process", "is_waited_for"), [("first", False), ("second", True)])
async def test_a_hello_that_took_long_makes_no_agent_younger_but_another_run_of_it_is(
    scene: Scene, process: str, *, is_waited_for: bool
) -> None:
    scene.connects(serving_for=11, process="first")  # a second before the first certificate
    await scene.clock.advance(5)
    scene.connects(serving_for=14, process=process)  # which is two seconds after it, if so
    assert bool(await scene.waits_for()) is is_waited_for


async def test_an_older_agent_that_does_not_say_is_not_waited_for(scene: Scene) -> None:
    scene.connects(serving_for=None)
    assert not await scene.waits_for()


async def test_a_clock_that_jumps_changes_nothing(scene: Scene) -> None:
    scene.connects(serving_for=1)
    steady = scene.clock.now()
    assert await scene.waits_for()
    scene.clock.jump(timedelta(hours=1))
    (holder,) = await scene.mesh.not_back(steady, issuer_ids=None)
    assert holder.until == steady + 34 * SECOND
