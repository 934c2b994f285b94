"""Refusals reach the audit log in the background; a store that is away costs neither memory nor silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

import pytest

from ca.audit.model import Act
from ca.audit.trail import AuditTrail
from citadel.actor import Actor, ActorKind
from citadel.errors import Reason, Unavailable
from citadel.tally import Refusal
from tests.clock import FakeClock
from tests.unit.ca.values import NODE_1

pytestmark = pytest.mark.invariant(10)


class FakeActs:
    """Records in memory, or is away."""

    def __init__(self) -> None:
        self.is_away = False
        self.written: list[Act] = []
        self.commits = 0

    async def record_all(self, acts: Sequence[Act], *, at: datetime) -> None:  # noqa: ARG002 - the port's form
        if self.is_away:
            raise Unavailable(Reason.STORE_UNAVAILABLE, "the disk is full")
        self.commits += 1
        self.written += acts
        for _ in range(5):  # a commit that came through, and whose answer is still under way
            await asyncio.sleep(0)


def refusal(number: int = 0, *, by: Actor | None = None, count: int = 1, what: str = "Sync") -> Refusal:
    by = by or Actor.identity(NODE_1)
    return Refusal(by=by, what=what, reason=Reason.AGENT_BANNED, message=f"refusal {number}", count=count)


@asynccontextmanager
async def running(acts: FakeActs, clock: FakeClock) -> AsyncIterator[AuditTrail]:
    trail = AuditTrail(acts=acts, clock=clock)
    work = asyncio.create_task(trail.run())
    yield trail
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    await trail.close()


async def test_a_refusal_is_an_act_with_its_reason(clock: FakeClock) -> None:
    acts = FakeActs()
    async with running(acts, clock) as trail:
        trail.note(refusal(1))
        trail.note(
            refusal(2, by=Actor(ActorKind.ANONYMOUS, "ipv4:10.0.0.7"), count=40, what="/citadel.v1.Bootstrap/Join")
        )
        await clock.advance(0)
    assert acts.written == [
        Act(actor=Actor.identity(NODE_1), what="Sync", detail="refusal 1", reason=Reason.AGENT_BANNED),
        Act(
            actor=Actor(ActorKind.ANONYMOUS, "ipv4:10.0.0.7"),
            what="/citadel.v1.Bootstrap/Join",
            detail="the last: refusal 2",
            reason=Reason.AGENT_BANNED,
            count=40,
        ),
    ]
    assert acts.commits == 1


async def test_a_store_that_was_away_gets_all_of_them_later(clock: FakeClock) -> None:
    acts = FakeActs()
    async with running(acts, clock) as trail:
        acts.is_away = True
        trail.note(refusal(1))
        await clock.advance(4)
        trail.note(refusal(2))
        acts.is_away = False
        await clock.advance(2)
        assert [act.detail for act in acts.written] == ["refusal 1", "refusal 2"]


async def test_what_does_not_fit_is_dropped_and_the_log_says_how_many(clock: FakeClock) -> None:
    acts = FakeActs()
    async with running(acts, clock) as trail:
        acts.is_away = True
        for number in range(1100):
            trail.note(refusal(number, count=2))
        acts.is_away = False
        await clock.advance(6)
        await clock.advance(6)
    assert len(acts.written) == 1001
    assert (acts.written[-1].what, acts.written[-1].count) == ("audit.dropped", 200)


async def test_what_waits_at_the_end_is_written_and_a_store_that_is_away_does_not_hold_it_up(clock: FakeClock) -> None:
    acts = FakeActs()
    trail = AuditTrail(acts=acts, clock=clock)
    trail.note(refusal(1))
    acts.is_away = True
    await trail.close()
    acts.is_away = False
    await trail.close()
    await trail.close()
    assert [act.detail for act in acts.written] == ["refusal 1"]


async def test_a_text_that_a_caller_made_long_is_cut(clock: FakeClock) -> None:
    acts = FakeActs()
    async with running(acts, clock) as trail:
        trail.note(Refusal(by=None, what="w" * 100, reason=Reason.INTERNAL, message="m" * 5000, count=1))
        await clock.advance(0)
    (act,) = acts.written
    assert (len(act.what), len(act.detail), act.actor) == (64, 1000, Actor(ActorKind.SERVER))


async def test_an_end_in_the_middle_of_a_commit_writes_nothing_twice(clock: FakeClock) -> None:
    acts = FakeActs()
    async with running(acts, clock) as trail:
        trail.note(refusal(1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert [act.detail for act in acts.written] == ["refusal 1"]
