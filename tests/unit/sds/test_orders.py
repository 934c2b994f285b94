"""Orders to renew ahead of time: what they cover, how soon that is renewed, and what the server is told of it."""

from __future__ import annotations

from datetime import timedelta
from random import SystemRandom
from typing import Any, Final

import pytest

from citadel._wire import agent_api_pb2 as pb
from citadel.errors import CitadelError
from citadel.wire import from_timestamp, to_duration, to_timestamp
from sds.holdings import HeldSvid
from sds.keep.orders import OrderBook, RenewOrder
from sds.keep.schedule import Schedule
from tests import certificates
from tests.certificates import NOW
from tests.unit.sds.holding import entry, held

OLD: Final = certificates.intermediate(certificates.root())
NEW: Final = certificates.intermediate(certificates.root())
MINUTE: Final = timedelta(minutes=1)
SECOND: Final = timedelta(seconds=1)
HOUR: Final = timedelta(hours=1)
BEGINS: Final = NOW - timedelta(days=1)  # of every SVID here


def svid(name: str = "web", issuer: certificates.Signed = OLD, *, until: timedelta = HOUR) -> HeldSvid:
    return held(entry(name), until=NOW + until, issuer=issuer)


OLD_KEY: Final = svid().issuer_key_id


def order(order_id: str = "r", **changes: Any) -> RenewOrder:
    profile: dict[str, Any] = {
        "id": order_id,
        "own": False,
        "svids": True,
        "issuer_key_ids": frozenset({OLD_KEY}),
        "not_before_until": None,
        "spiffe_id": None,
        "window": 5 * MINUTE,
    }
    return RenewOrder(**(profile | changes))


@pytest.mark.parametrize(
    ("changes", "is_covered"),
    [
        ({}, True),
        ({"issuer_key_ids": frozenset({b"another"})}, False),
        ({"issuer_key_ids": frozenset({b"another", OLD_KEY})}, True),
        ({"not_before_until": BEGINS}, True),
        ({"not_before_until": BEGINS + SECOND}, True),
        ({"not_before_until": BEGINS - SECOND}, False),
        ({"issuer_key_ids": frozenset(), "not_before_until": BEGINS}, True),
        ({"spiffe_id": entry("web").spiffe_id}, True),
        ({"spiffe_id": entry("shop").spiffe_id}, False),
        ({"issuer_key_ids": frozenset({b"another"}), "spiffe_id": entry("web").spiffe_id}, False),
    ],
)
def test_an_order_covers_what_fits_everything_that_it_says(changes: dict[str, Any], *, is_covered: bool) -> None:
    found = svid()
    assert order(**changes).covers(found.svid, found.issuer_key_id) is is_covered


def test_an_order_is_read_as_it_was_written() -> None:
    written = pb.RenewOrder(
        id="r",
        svids=True,
        issuer_key_ids=[OLD_KEY],
        not_before_until=to_timestamp(NOW),
        spiffe_id="spiffe://a.test/web",
        window=to_duration(5 * MINUTE),
    )
    assert RenewOrder.from_wire(written) == order(not_before_until=NOW, spiffe_id=entry("web").spiffe_id)
    empty = RenewOrder.from_wire(pb.RenewOrder(id="r", own=True))
    assert (empty.not_before_until, empty.spiffe_id, empty.window) == (None, None, timedelta(0))
    with pytest.raises(CitadelError):
        RenewOrder.from_wire(pb.RenewOrder(id="r", spiffe_id="no ID"))


def test_what_an_order_covers_is_found_once_also_where_the_order_comes_again() -> None:
    book, web, shop = OrderBook(), svid("web"), svid("shop", NEW)
    book.add(order())
    assert book.newly_covered([web, shop]) == {"web": 5 * MINUTE}
    assert book.newly_covered([web, shop]) == {}
    book.add(order(window=MINUTE))
    assert book.newly_covered([web, shop]) == {}, "the window that was drawn from goes on"


def test_an_svid_signed_just_before_its_authority_was_left_is_covered_too() -> None:
    book = OrderBook()
    book.add(order())
    book.newly_covered([svid("web")])
    late, right = svid("web"), svid("web", NEW)
    assert book.newly_covered([late]) == {"web": 5 * MINUTE}
    assert book.newly_covered([right]) == {}
    assert [(each.covered, each.left) for each in book.progress([right]).orders] == [(1, 0)]


def test_what_is_covered_again_and_again_is_renewed_ever_more_seldom() -> None:
    book = OrderBook()
    book.add(order(window=timedelta(0)))
    windows = [book.newly_covered([svid("web")])["web"] / SECOND for _ in range(40)]
    assert windows[:5] == [0, 2, 4, 8, 16]
    assert windows[-1] == windows[-2] == 2**16


def test_of_two_orders_the_shorter_window_counts() -> None:
    book = OrderBook()
    book.add(order("1"))
    book.add(order("2", window=MINUTE))
    assert book.newly_covered([svid("web")]) == {"web": MINUTE}


@pytest.mark.parametrize("changes", [{"svids": False}, {"svids": False, "own": True}])
def test_orders_of_other_kinds_are_none_of_the_workloads(changes: dict[str, Any]) -> None:
    book = OrderBook()
    book.add(order(**changes))
    assert book.newly_covered([svid()]) == {}
    assert list(book.progress([svid()]).orders) == []


def test_the_server_is_told_how_much_is_left_of_each_order_and_when_the_last_of_it_ends() -> None:
    book = OrderBook()
    assert book.progress([svid()]) == pb.RenewProgress()
    book.add(order())
    held_now = [svid("web", until=HOUR), svid("shop", until=2 * HOUR), svid("new", NEW, until=3 * HOUR)]
    book.newly_covered(held_now)
    (told,) = book.progress(held_now).orders
    assert (told.order_id, told.covered, told.left) == ("r", 2, 2)
    assert from_timestamp(told.left_until) == NOW + 2 * HOUR
    (told,) = book.progress([svid("web", NEW), held_now[2]]).orders
    assert (told.covered, told.left, told.HasField("left_until")) == (2, 0, False)


def test_only_the_last_orders_are_remembered() -> None:
    book = OrderBook()
    for number in range(20):
        book.add(order(str(number)))
        book.newly_covered([svid()])
    kept = [each.order_id for each in book.progress([]).orders]
    assert kept == [str(number) for number in range(12, 20)]


def scheduled(*names: str) -> Schedule:
    """All were renewed at `NOW`, and are due in some half an hour."""
    schedule = Schedule(initial=SECOND, maximum=MINUTE, random=SystemRandom())
    schedule.follow([entry(name) for name in names])
    for name in names:
        assert schedule.issued(entry(name), received=NOW, not_after=NOW + HOUR)
    return schedule


def due(schedule: Schedule, after: timedelta) -> list[str]:
    return sorted(each.id for each in schedule.due(NOW + after))


def test_what_is_hastened_is_due_by_then_and_never_later_than_before() -> None:
    schedule = scheduled("web", "shop")
    schedule.hasten("web", NOW + MINUTE)
    assert due(schedule, MINUTE - SECOND) == []
    assert due(schedule, MINUTE) == ["web"]
    schedule.hasten("web", NOW + 2 * MINUTE)
    assert due(schedule, MINUTE) == ["web"], "a longer window takes nothing back"
    schedule.hasten("web", NOW + SECOND)
    assert due(schedule, SECOND) == ["web"], "a shorter one counts"
    schedule.hasten("shop", NOW + 2 * HOUR)
    assert due(schedule, HOUR / 2) == ["shop", "web"]


def test_nothing_is_hastened_that_is_unknown_or_due_anyway() -> None:
    schedule = Schedule(initial=SECOND, maximum=MINUTE, random=SystemRandom())
    schedule.follow([entry("web")])
    schedule.hasten("web", NOW + HOUR)
    schedule.hasten("unknown", NOW)
    assert due(schedule, timedelta(0)) == ["web"]
