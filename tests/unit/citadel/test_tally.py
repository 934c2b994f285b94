"""Refusals are counted one by one; those of callers without an identity are told in sums."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from citadel.errors import CitadelError, PermissionDenied, Reason, ResourceExhausted, Unauthenticated
from citadel.tally import Tally
from tests.clock import FakeClock

UNKNOWN = Unauthenticated(Reason.TOKEN_UNKNOWN, "there is no such join token")
TOO_MANY = ResourceExhausted(Reason.TOO_MANY_REQUESTS, "too many")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def tally(clock: FakeClock) -> AsyncIterator[Tally]:
    made = Tally(clock=clock)
    yield made
    await made.close()


def refuse(tally: Tally, error: CitadelError, times: int) -> None:
    for _ in range(times):
        tally.count_anonymous_refused("/citadel.v1.Bootstrap/Join", error)


@pytest.mark.invariant(10)
async def test_authenticated_refusals_are_told_one_by_one(tally: Tally) -> None:
    with capture_logs() as lines:
        for number in range(3):
            tally.count_refused("Sync", PermissionDenied(Reason.AGENT_BANNED, f"agent {number} is banned"))
    assert [line["error"] for line in lines] == [f"agent {number} is banned" for number in range(3)]
    assert tally.refused == {Reason.AGENT_BANNED: 3}


@pytest.mark.invariant(10)
async def test_a_flood_of_anonymous_refusals_is_one_line_for_each_reason_in_five_seconds(
    tally: Tally, clock: FakeClock
) -> None:
    with capture_logs() as lines:
        refuse(tally, UNKNOWN, 1000)
        refuse(tally, TOO_MANY, 10)
        await clock.advance(4.9)
        refuse(tally, UNKNOWN, 500)
        await clock.advance(0)
        assert [(line["reason"], line["count"]) for line in lines] == [
            ("token_unknown", 1000),
            ("too_many_requests", 10),
        ]
        await clock.advance(0.2)
        assert [(line["reason"], line["count"]) for line in lines[2:]] == [("token_unknown", 500)]
    assert lines[0]["last"] == "/citadel.v1.Bootstrap/Join"
    assert lines[0]["last_error"] == "there is no such join token"
    assert tally.refused == {Reason.TOKEN_UNKNOWN: 1500, Reason.TOO_MANY_REQUESTS: 10}


@pytest.mark.invariant(10)
async def test_one_alone_is_told_at_once_also_after_a_quiet_time(tally: Tally, clock: FakeClock) -> None:
    with capture_logs() as lines:
        for seen in (1, 2):
            refuse(tally, UNKNOWN, 1)
            await clock.advance(0)
            assert len(lines) == seen
            await clock.advance(60)


@pytest.mark.invariant(10)
async def test_what_was_summed_is_told_at_the_end(tally: Tally, clock: FakeClock) -> None:
    with capture_logs() as lines:
        refuse(tally, UNKNOWN, 1)
        await clock.advance(0)
        refuse(tally, UNKNOWN, 7)
        await tally.close()
        await tally.close()
    assert [line["count"] for line in lines] == [1, 7]
