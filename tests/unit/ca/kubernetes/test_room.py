"""Room that clusters share: whatever one of them takes, the others have theirs."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from ca.kubernetes.room import Room
from citadel.errors import Reason, ResourceExhausted

MANY = 10_000


def takes_all(room: Room, cluster: str, calls: ExitStack) -> int:
    """How many calls it is let have."""
    number = 0
    try:
        while number < MANY:
            calls.enter_context(room.one(cluster))
            number += 1
    except ResourceExhausted as refused:
        assert refused.reason is Reason.TOO_MANY_REQUESTS  # noqa: PT017 - how many there are is not known before
    return number


@pytest.mark.parametrize(
    ("most", "clusters", "first", "second", "others"),
    [
        (1000, 1, 1000, 0, 0),  # who is alone has all of it
        (1000, 2, 750, 250, 0),
        (1000, 4, 625, 125, 125),
        (8, 8, 1, 1, 1),
        (2, 8, 1, 1, 1),  # no more than this many are let into the server at all
    ],
)
def test_whatever_comes_first_each_cluster_has_its_part(
    most: int, clusters: int, first: int, second: int, others: int
) -> None:
    room = Room(most, clusters=clusters)
    with ExitStack() as calls:
        assert takes_all(room, "west", calls) == first
        if clusters > 1:
            assert takes_all(room, "east", calls) == second
        for number in range(2, clusters):
            assert takes_all(room, f"c{number}", calls) == others


def test_a_place_is_free_again_for_whoever_comes() -> None:
    room = Room(8, clusters=2)
    with ExitStack() as wests:
        assert takes_all(room, "west", wests) == 6
        with ExitStack() as easts:
            assert takes_all(room, "east", easts) == 2
    with ExitStack() as easts:
        assert takes_all(room, "east", easts) == 6
        with ExitStack() as wests:
            assert takes_all(room, "west", wests) == 2
