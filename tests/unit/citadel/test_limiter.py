"""The limit for callers without an identity."""

from __future__ import annotations

from contextlib import suppress

import pytest

from citadel import limiter
from citadel.errors import Reason, ResourceExhausted
from citadel.limiter import RateLimiter
from tests.clock import FakeClock


def admitted(limit: RateLimiter, caller: str, tries: int) -> int:
    count = 0
    for _ in range(tries):
        with suppress(ResourceExhausted):
            limit.admit(caller)
            count += 1
    return count


async def test_a_burst_of_a_second_is_allowed_and_then_the_rate() -> None:
    clock = FakeClock()
    limit = RateLimiter(clock=clock, per_second=5)
    assert admitted(limit, "ipv4:10.0.0.1", 20) == 5
    await clock.advance(0.4)
    assert admitted(limit, "ipv4:10.0.0.1", 20) == 2
    await clock.advance(3600)
    assert admitted(limit, "ipv4:10.0.0.1", 20) == 5


async def test_a_slow_rate_allows_one_and_then_waits() -> None:
    clock = FakeClock()
    limit = RateLimiter(clock=clock, per_second=0.5)
    assert admitted(limit, "x", 3) == 1
    await clock.advance(1.9)
    assert admitted(limit, "x", 3) == 0
    await clock.advance(0.2)
    assert admitted(limit, "x", 3) == 1


async def test_one_caller_takes_nothing_from_another() -> None:
    limit = RateLimiter(clock=FakeClock(), per_second=2)
    assert admitted(limit, "a", 10) == 2
    assert admitted(limit, "b", 10) == 2


async def test_a_flood_of_callers_is_remembered_within_bounds_and_the_newest_stay_limited() -> None:
    limit = RateLimiter(clock=FakeClock(), per_second=1)
    for number in range(limiter._MOST_CALLERS + 100):
        limit.admit(f"caller {number}")
    assert len(limit._buckets) == limiter._MOST_CALLERS
    with pytest.raises(ResourceExhausted) as refused:
        limit.admit(f"caller {limiter._MOST_CALLERS + 99}")
    assert refused.value.reason is Reason.TOO_MANY_REQUESTS


async def test_another_one_has_buckets_of_its_own_and_is_never_slower() -> None:
    slow = RateLimiter(clock=FakeClock(), per_second=2)
    faster = slow.at_least(5)
    assert admitted(faster, "a", 10) == 5
    assert admitted(slow, "a", 10) == 2
    assert admitted(slow.at_least(1), "a", 10) == 2
