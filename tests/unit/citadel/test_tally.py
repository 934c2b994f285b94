"""Refusals are counted one by one; the first of a kind is told at once, and what repeats it in sums."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from citadel.actor import Actor, ActorKind
from citadel.errors import CitadelError, PermissionDenied, Reason, ResourceExhausted, Unauthenticated
from citadel.tally import Refusal, Tally
from tests.clock import FakeClock

pytestmark = pytest.mark.invariant(10)

UNKNOWN = Unauthenticated(Reason.TOKEN_UNKNOWN, "there is no such join token")
TOO_MANY = ResourceExhausted(Reason.TOO_MANY_REQUESTS, "too many")
BANNED = PermissionDenied(Reason.AGENT_BANNED, "it is banned")
NODE_1 = Actor(ActorKind.SPIFFE, "spiffe://a.test/citadel/agent/node-1")
NODE_2 = Actor(ActorKind.SPIFFE, "spiffe://a.test/citadel/agent/node-2")


class Sink:
    def __init__(self) -> None:
        self.noted: list[Refusal] = []

    def note(self, refusal: Refusal) -> None:
        self.noted.append(refusal)

    @property
    def counts(self) -> list[int]:
        return [refusal.count for refusal in self.noted]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
async def tally(clock: FakeClock, sink: Sink) -> AsyncIterator[Tally]:
    made = Tally(clock=clock, sink=sink)
    yield made
    await made.close()


def refuse(tally: Tally, error: CitadelError, times: int = 1, *, by: Actor | None = NODE_1, what: str = "Sync") -> None:
    for _ in range(times):
        tally.count_refused(what, error, by=by)


async def test_a_refusal_is_told_at_once_with_who_what_and_why(tally: Tally, sink: Sink) -> None:
    with capture_logs() as lines:
        refuse(tally, BANNED)
    (line,) = lines
    assert line | {"event": "refused", "log_level": "warning"} == {
        "event": "refused",
        "log_level": "warning",
        "what": "Sync",
        "by": "spiffe:spiffe://a.test/citadel/agent/node-1",
        "reason": "agent_banned",
        "error": "it is banned",
        "count": 1,
    }
    assert sink.noted == [Refusal(by=NODE_1, what="Sync", reason=Reason.AGENT_BANNED, message="it is banned", count=1)]


@pytest.mark.parametrize(
    "other",
    [
        {"by": NODE_2},
        {"what": "SignX509Svids"},
        {"error": PermissionDenied(Reason.AGENT_UNKNOWN, "it is banned")},
        {"error": PermissionDenied(Reason.AGENT_BANNED, "for another reason")},
    ],
)
async def test_refusals_that_differ_are_told_one_by_one(tally: Tally, sink: Sink, other: dict[str, object]) -> None:
    refuse(tally, BANNED)
    refuse(tally, **({"error": BANNED} | other))  # type: ignore[arg-type] # a table of changes
    assert sink.counts == [1, 1]


@pytest.mark.parametrize(("pause", "told"), [(5, 11), (60, 17)])
async def test_a_caller_in_a_loop_is_told_ever_more_rarely_however_slow_the_loop(
    tally: Tally, clock: FakeClock, sink: Sink, pause: int, told: int
) -> None:
    for _ in range(500):
        refuse(tally, BANNED)
        await clock.advance(pause)
    assert len(sink.noted) <= told  # each sum after twice the time, and at last once an hour
    await tally.close()
    assert sum(sink.counts) == tally.refused[Reason.AGENT_BANNED] == 500


async def test_what_repeats_is_told_after_five_seconds_then_ten_then_twenty(
    tally: Tally, clock: FakeClock, sink: Sink
) -> None:
    told_at = []
    for second in range(80):
        refuse(tally, BANNED)
        if len(sink.noted) > len(told_at):
            told_at.append(second)
        await clock.advance(1)
        if len(sink.noted) > len(told_at):
            told_at.append(second + 1)
    assert told_at == [0, 5, 15, 35, 75]
    assert sink.counts == [1, 4, 10, 20, 40]


async def test_after_a_quiet_time_one_is_told_at_once_again(tally: Tally, clock: FakeClock, sink: Sink) -> None:
    for seen in (1, 2, 3, 4):
        refuse(tally, BANNED)
        assert len(sink.noted) == seen
        await clock.advance(606)
        assert not tally._sums  # and nothing is kept of it


async def test_a_caller_whose_every_refusal_differs_is_summed_too(tally: Tally, clock: FakeClock, sink: Sink) -> None:
    for number in range(1000):
        refuse(tally, PermissionDenied(Reason.ENTRY_NOT_AUTHORIZED, f"entry {number} is not yours"))
    refuse(tally, BANNED, by=NODE_2)
    assert [refusal.by for refusal in sink.noted].count(NODE_1) == 21
    assert sink.noted[-1].by == NODE_2  # who is not in a loop is told at once
    await clock.advance(5)
    (last,) = sink.noted[22:]
    assert (last.count, last.message) == (979, "entry 999 is not yours")


async def test_a_flood_of_anonymous_refusals_is_one_line_for_each_reason_and_method(
    tally: Tally, clock: FakeClock, sink: Sink
) -> None:
    for number in range(1000):
        address = Actor(ActorKind.ANONYMOUS, f"ipv4:10.0.{number // 250}.{number % 250}")
        refuse(tally, Unauthenticated(Reason.TOKEN_UNKNOWN, f"there is no token {number}"), by=address, what="Join")
        refuse(tally, TOO_MANY, by=address, what="Join")
    assert sink.counts == [1, 1]
    await clock.advance(5)
    assert [(refusal.reason, refusal.count) for refusal in sink.noted[2:]] == [
        (Reason.TOKEN_UNKNOWN, 999),
        (Reason.TOO_MANY_REQUESTS, 999),
    ]
    assert sink.noted[2].by == Actor(ActorKind.ANONYMOUS, "ipv4:10.0.3.249")  # the last
    assert tally.refused == {Reason.TOKEN_UNKNOWN: 1000, Reason.TOO_MANY_REQUESTS: 1000}


async def test_more_callers_than_are_told_apart_are_at_least_counted(
    tally: Tally, clock: FakeClock, sink: Sink
) -> None:
    for number in range(2500):
        refuse(tally, BANNED, by=Actor(ActorKind.SPIFFE, f"spiffe://a.test/w{number}"))
    assert len(sink.noted) == 2000
    await clock.advance(5)
    assert (sink.noted[-1].count, sink.noted[-1].by) == (500, None)


async def test_callers_of_one_namespace_silence_nobody_else_however_many_they_are(tally: Tally, sink: Sink) -> None:
    def tenant(numbers: range) -> None:
        for number in numbers:
            by = Actor(ActorKind.SPIFFE, f"spiffe://a.test/ns/tenant/sa/s{number}")
            for wish in range(20):
                refuse(tally, PermissionDenied(Reason.ENTRY_NOT_AUTHORIZED, f"not {wish}"), by=by)

    for _ in range(2):
        tenant(range(100))
    assert len(sink.noted) == 2000
    for again in (False, True):
        before = len(sink.noted)
        for by in (NODE_1, NODE_2, Actor.local(0), Actor(ActorKind.ANONYMOUS, "ipv4:10.0.0.1"), None):
            for reason in (Reason.AGENT_BANNED, Reason.AGENT_UNKNOWN):
                refuse(tally, PermissionDenied(reason, "no"), by=by)
        # At once, and then in sums: the tenant's have not taken their places.
        assert len(sink.noted) - before == (0 if again else 10)
        tenant(range(100, 120))
    assert len(tally._sums) == 2000
    await tally.close()
    assert sum(sink.counts) == tally.refused.total()


async def test_what_was_summed_is_told_at_the_end(tally: Tally, sink: Sink) -> None:
    refuse(tally, UNKNOWN, 8, by=Actor(ActorKind.ANONYMOUS, "ipv4:10.0.0.1"))
    await tally.close()
    await tally.close()
    assert sink.counts == [1, 7]
