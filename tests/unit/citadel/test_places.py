"""Who gives way where more is wanted than there are places."""

from __future__ import annotations

from random import Random

import pytest

from citadel.places import Asker, Places, Worth

MOST = 24
SHARE = 4

pytestmark = pytest.mark.invariant(10)


class Room:
    """So many places, taken as those who use them do."""

    def __init__(self) -> None:
        self.places: Places[tuple[str, str, int]] = Places(share=SHARE)
        self.moves = 0

    def want(self, group: str, name: str, numbers: range, worth: Worth = Worth.UNKNOWN) -> int:
        """How many of them have a place now."""
        return sum(self._one((group, name, number), worth) for number in numbers)

    def _one(self, key: tuple[str, str, int], worth: Worth) -> bool:
        asker = Asker(*key[:2])
        if key in self.places.of(asker):
            return True
        if len(self.places) >= MOST:
            if (leaving := self.places.giving_way(asker)) is None:
                return False
            self.places.drop(leaving)
            self.moves += 1
        self.places.put(key, asker)
        self.places.mark(key, worth)
        return True

    def has(self, group: str, name: str = "a") -> int:
        return len(self.places.of(Asker(group, name)))


@pytest.fixture
def room() -> Room:
    return Room()


def test_who_wants_much_has_all_that_nobody_else_wants(room: Room) -> None:
    assert room.want("busy", "a", range(100)) == MOST


def test_what_comes_to_nothing_is_shared_out_evenly_among_groups_and_then_within_them(room: Room) -> None:
    for name in "abcdefgh":
        room.want("many", name, range(100), Worth.NOTHING)
    assert room.want("one", "a", range(100)) == MOST // 2
    assert {room.has("many", name) for name in "abcdefgh"} <= {1, 2}
    assert room.want("many", "z", range(100)) == 1


def test_what_is_of_use_stays_while_anything_else_is_there_and_its_share_whatever_others_want(room: Room) -> None:
    room.want("busy", "a", range(14), Worth.USED)
    for number in range(10):
        room.want(f"group-{number}", "a", range(100), Worth.NOTHING)
    assert room.has("busy") == 14
    for number in range(10, 50):
        room.want(f"group-{number}", "a", range(100), Worth.NOTHING)
        room.want("busy", "b", range(100), Worth.NOTHING)
    assert room.has("busy") == SHARE


def test_who_has_nothing_gets_a_share_also_where_all_are_of_use_and_no_more(room: Room) -> None:
    room.want("busy", "a", range(MOST), Worth.USED)
    assert room.want("late", "a", range(100), Worth.USED) == SHARE
    assert room.has("busy") == MOST - SHARE
    assert room.want("busy", "a", range(MOST)) == MOST - SHARE


def test_nobody_who_gets_nothing_by_it_takes_more_than_one_that_is_of_use(room: Room) -> None:
    room.want("busy", "a", range(MOST), Worth.USED)
    for name in "abcdefgh":
        room.want("late", name, range(100), Worth.NOTHING)
    assert room.has("busy") == MOST - 1


def test_what_was_refused_goes_before_what_is_not_known_yet_and_then_the_newest(room: Room) -> None:
    room.want("busy", "a", range(10))
    room.want("busy", "a", range(10, 12), Worth.NOTHING)
    room.want("busy", "a", range(12, MOST))
    gone = []
    for number in range(4):
        leaving = room.places.giving_way(Asker("late"))
        assert leaving is not None
        gone.append(leaving[2])
        room.places.drop(leaving)
        room.places.put(("late", "", number), Asker("late"))
    assert gone == [11, 10, 23, 22]


@pytest.mark.parametrize("seed", range(20))
def test_places_come_to_rest_however_often_everybody_asks_again(room: Room, seed: int) -> None:
    draw = Random(seed)  # noqa: S311 - the same cases each time
    askers = [(f"group-{draw.randrange(4)}", f"{number}") for number in range(9)]
    before = -1
    for _ in range(50):
        before = room.moves
        draw.shuffle(askers)
        for group, name in askers:
            room.want(group, name, range(10), draw.choice([Worth.UNKNOWN, Worth.NOTHING]))
    assert room.moves == before
    assert len(room.places) == MOST
