"""Which new names the server is asked for next."""

from __future__ import annotations

import pytest

from sds.credentials.turns import Turns
from tests.clock import FakeClock

BUSY = [("busy", f"n{number}") for number in range(256)]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_all_at_once_and_then_so_many_in_a_second(clock: FakeClock) -> None:
    turns = Turns(per_second=40, burst=100, clock=clock)
    assert turns.take(BUSY[:100]) == BUSY[:100]
    assert turns.take(BUSY[100:]) == []
    clock.leap(1)
    assert turns.take(BUSY[100:]) == BUSY[100:140]


def test_a_pod_that_wants_others_all_the_time_holds_up_itself_alone(clock: FakeClock) -> None:
    turns = Turns(per_second=2, burst=2, clock=clock)
    mine = [("gw", f"m{number}") for number in range(10)]
    waiting, found = list(mine), []
    for second in range(20):
        taken = turns.take([*((pod, f"{second}-{name}") for pod, name in BUSY), *waiting])
        waiting = [key for key in waiting if key not in taken]
        found.append(len(waiting))
        clock.leap(1)
    assert found[:10] == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]


def test_among_pods_the_older_goes_before(clock: FakeClock) -> None:
    turns = Turns(per_second=1, burst=3, clock=clock)
    keys = [("a", "1"), ("a", "2"), ("b", "1"), ("c", "1"), ("b", "2")]
    assert turns.take(keys) == [("a", "1"), ("b", "1"), ("c", "1")]
