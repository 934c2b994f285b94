"""What waits to be brought in order, when nothing goes smoothly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from ca.kubernetes.backlog import Backlog
from citadel.errors import Reason, Unavailable
from citadel.kubernetes.ports import ApiUnavailable
from tests.clock import FakeClock


@dataclass
class Work:
    """What is done, in order; a key of `fails` cannot be."""

    clock: FakeClock
    done: list[str] = field(default_factory=list)
    tries: list[tuple[str, float]] = field(default_factory=list)
    fails: dict[str, BaseException] = field(default_factory=dict)
    away: bool = False
    meanwhile: Callable[[], object] = lambda: None

    async def __call__(self, key: str) -> None:
        self.tries.append((key, self.clock.monotonic()))
        self.meanwhile()
        await asyncio.sleep(0)
        if key in self.fails:
            raise self.fails[key]
        self.done.append(key)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def work(clock: FakeClock) -> Work:
    return Work(clock)


@pytest.fixture
async def backlog(work: Work, clock: FakeClock) -> AsyncIterator[Backlog]:
    backlog = Backlog(work, is_away=lambda: work.away, clock=clock, at_once=1, draw=lambda: 0.0)
    running = asyncio.create_task(backlog.run())
    yield backlog
    running.cancel()


DENIED = Unavailable(Reason.KUBERNETES_DENIED, "the quota is full")


async def test_one_that_fails_holds_up_no_other_and_is_tried_later_each_time(
    backlog: Backlog, work: Work, clock: FakeClock
) -> None:
    work.fails["bad"] = DENIED
    for key in ("bad", "a", "b"):
        backlog.add(key)
    await clock.advance(7)
    assert work.done == ["a", "b"]
    assert [at for key, at in work.tries if key == "bad"] == [0, 1, 3, 7]
    assert dict(backlog.failing) == {"bad": DENIED}
    work.fails.clear()
    await clock.advance(8)
    assert work.done == ["a", "b", "bad"]
    assert not backlog.failing


async def test_what_nobody_expected_of_one_is_told_and_tried_again_like_a_refusal(
    backlog: Backlog, work: Work, clock: FakeClock
) -> None:
    work.fails["bad"] = KeyError("what a stranger wrote")
    with capture_logs() as logs:
        for key in ("bad", "a", "b"):
            backlog.add(key)
        await clock.advance(7)
    assert work.done == ["a", "b"]
    assert [at for key, at in work.tries if key == "bad"] == [0, 1, 3, 7]
    (error,) = backlog.failing.values()
    assert (error.reason, error.message) == (Reason.INTERNAL, "the server's own fault, KeyError: see its log")
    assert [each["what"] for each in logs if each.get("exc_info")] == ["bad"] * 4
    work.fails.clear()
    await clock.advance(8)
    assert work.done == ["a", "b", "bad"]
    assert not backlog.failing


async def test_what_waits_or_is_under_way_when_the_work_is_ended_is_done_when_it_is_begun_anew(
    work: Work, clock: FakeClock
) -> None:
    backlog = Backlog(work, is_away=lambda: work.away, clock=clock, at_once=1, draw=lambda: 0.0)
    work.fails["bad"] = DENIED
    running = asyncio.create_task(backlog.run())
    backlog.add("bad")
    await clock.advance(0.5)
    work.meanwhile = running.cancel
    backlog.add("a")
    await clock.advance(0)
    assert running.cancelled()
    assert work.done == []
    work.meanwhile = lambda: None
    work.fails.clear()
    running = asyncio.create_task(backlog.run())
    await clock.advance(0)
    assert sorted(work.done) == ["a", "bad"]
    running.cancel()


async def test_work_that_makes_an_error_of_its_end_does_not_go_on(clock: FakeClock) -> None:
    begun: list[str] = []

    async def work(key: str) -> None:
        begun.append(key)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise KeyError(key) from None

    backlog = Backlog(work, is_away=lambda: False, clock=clock, at_once=2)
    backlog.add("a")
    for _ in range(2):
        running = asyncio.create_task(backlog.run())
        await clock.advance(0)
        running.cancel()
        await clock.advance(0)
        assert running.cancelled()
        assert not backlog.failing
    assert begun == ["a", "a"]


async def test_work_that_somebody_else_cancelled_is_tried_again_like_a_refusal(
    backlog: Backlog, work: Work, clock: FakeClock
) -> None:
    work.fails["bad"] = asyncio.CancelledError()
    for key in ("bad", "a"):
        backlog.add(key)
    await clock.advance(3)
    assert work.done == ["a"]
    assert [at for key, at in work.tries if key == "bad"] == [0, 1, 3]
    assert [error.reason for error in backlog.failing.values()] == [Reason.INTERNAL]


async def test_what_is_added_twice_is_done_once_and_what_changes_meanwhile_again(
    backlog: Backlog, work: Work, clock: FakeClock
) -> None:
    backlog.add("a")
    backlog.add("a")
    await clock.advance(0)
    assert work.done == ["a"]
    work.meanwhile = lambda: (setattr(work, "meanwhile", lambda: None), backlog.add("b"))[1]
    backlog.add("b")
    await clock.advance(0)
    assert work.done == ["a", "b", "b"]


async def test_what_changes_is_tried_before_its_pause_is_over(backlog: Backlog, work: Work, clock: FakeClock) -> None:
    work.fails["a"] = DENIED
    backlog.add("a")
    await clock.advance(3)
    tries = len(work.tries)
    work.fails.clear()
    backlog.add("a")
    await clock.advance(0)
    assert work.done == ["a"]
    await clock.advance(60)
    assert len(work.tries) == tries + 1  # and not once more when the pause ends


async def test_what_is_urgent_goes_first(backlog: Backlog, work: Work, clock: FakeClock) -> None:
    for key in ("a", "b"):
        backlog.add(key)
    backlog.add("new", urgent=True)
    await clock.advance(0)
    assert work.done == ["new", "a", "b"]


async def test_while_the_api_server_is_away_nothing_is_tried(backlog: Backlog, work: Work, clock: FakeClock) -> None:
    work.away = True
    for number in range(20):
        backlog.add(str(number))
    await clock.advance(600)
    assert work.tries == []
    work.away = False
    await clock.advance(1)
    assert len(work.done) == 20


async def test_what_the_api_server_asks_for_all_wait(backlog: Backlog, work: Work, clock: FakeClock) -> None:
    work.fails["a"] = ApiUnavailable("too many requests", retry_after=timedelta(seconds=5))
    backlog.add("a")
    backlog.add("b")
    await clock.advance(4.5)
    assert [key for key, _ in work.tries] == ["a"]
    work.fails.clear()
    await clock.advance(1)
    assert sorted(work.done) == ["a", "b"]


async def test_what_is_gone_is_not_tried_again(backlog: Backlog, work: Work, clock: FakeClock) -> None:
    work.fails["a"] = DENIED
    backlog.add("a")
    await clock.advance(0)
    backlog.forget("a")
    await clock.advance(600)
    assert len(work.tries) == 1
    assert not backlog.failing
