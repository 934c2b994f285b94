from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from google.protobuf.any_pb2 import Any as PackedMessage

from citadel._wire import types_pb2
from sds.serve import registry as module
from sds.serve.expiries import Expiries
from sds.serve.registry import MAX_WAITING, MAX_WAITING_CHARACTERS, StreamRegistry, resource_reports
from sds.serve.resource import BundleFacts, Resource, SvidFacts
from sds.serve.standing import Held, Standing, State
from tests.certificates import NOW
from tests.clock import FakeClock


def report(stream_id: str, *names: str) -> types_pb2.StreamReport:
    return types_pb2.StreamReport(
        stream_id=stream_id, resources=[types_pb2.ResourceReport(name=name) for name in names]
    )


def change(registry: StreamRegistry, stream_id: str, *names: str) -> None:
    registry.change(stream_id, lambda: report(stream_id, *names))


def test_changes_are_taken_once_and_only_the_newest_of_each_stream() -> None:
    registry = StreamRegistry(clock=FakeClock(NOW))
    for names in ((), ("a",), ("a", "b")):
        change(registry, "1", *names)
    change(registry, "2")
    assert registry.take_changed() == [report("1", "a", "b"), report("2")]
    assert registry.take_changed() == []
    assert registry.snapshot() == [report("1", "a", "b"), report("2")]


def test_a_report_is_made_only_for_who_asks_however_often_a_stream_changes() -> None:
    registry, made = StreamRegistry(clock=FakeClock(NOW)), []

    def make() -> types_pb2.StreamReport:
        made.append(1)
        return report("1")

    for _ in range(100):
        registry.change("1", make)
    assert not made
    registry.take_changed()
    registry.take_changed()
    assert len(made) == 1


def test_a_change_wakes_who_watches() -> None:
    registry, event = StreamRegistry(clock=FakeClock(NOW)), asyncio.Event()
    registry.watch(event)
    change(registry, "1")
    assert event.is_set()
    event.clear()
    registry.take_changed()
    change(registry, "1")
    assert event.is_set()


def test_an_ended_stream_is_reported_once_as_closed_and_is_in_no_snapshot() -> None:
    registry, event = StreamRegistry(clock=FakeClock(NOW)), asyncio.Event()
    change(registry, "1", "a")
    registry.watch(event)
    registry.end("1")
    assert event.is_set()
    assert registry.snapshot() == []
    (ended,) = registry.take_changed()
    assert (ended.stream_id, ended.closed) == ("1", True)
    registry.end("1")
    registry.end("unknown")
    assert registry.take_changed() == []


def test_a_taken_report_is_not_changed_by_its_streams_end() -> None:
    registry, own = StreamRegistry(clock=FakeClock(NOW)), report("1")
    registry.change("1", lambda: own)
    (taken,) = registry.take_changed()
    registry.end("1")
    assert not taken.closed


def test_ended_streams_that_nobody_takes_are_bounded_and_the_newest_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENDED", 3)
    registry = StreamRegistry(clock=FakeClock(NOW))
    for number in range(10):
        change(registry, str(number))
        registry.end(str(number))
    assert [each.stream_id for each in registry.take_changed()] == ["7", "8", "9"]


def test_who_stops_watching_is_left_alone() -> None:
    registry, event = StreamRegistry(clock=FakeClock(NOW)), asyncio.Event()
    registry.watch(event)
    registry.unwatch(event)
    change(registry, "1")
    assert not event.is_set()


UNTIL = NOW + timedelta(hours=1)
SVID = Resource("default", "v2", SvidFacts("spiffe://a.test/web", "b2", UNTIL), PackedMessage())
BUNDLE = Resource("ROOTCA", "v2", BundleFacts("a.test", 2), PackedMessage())


@pytest.mark.invariant(4)
@pytest.mark.parametrize("state", [State.SENT, State.REFUSED])
def test_what_a_proxy_still_holds_stands_beside_what_it_was_sent(state: State) -> None:
    old = Held("v1", SvidFacts("spiffe://a.test/web", "a1", NOW))
    (svid,) = resource_reports([Standing("default", state, SVID, held=old)])
    assert (svid.version, svid.serial, svid.not_after.ToDatetime(NOW.tzinfo)) == ("v2", "b2", UNTIL)
    assert (svid.held_version, svid.held_serial, svid.held_not_after.ToDatetime(NOW.tzinfo)) == ("v1", "a1", NOW)
    (bundle,) = resource_reports([Standing("ROOTCA", state, BUNDLE, held=Held("v1", BundleFacts("a.test", 1)))])
    assert (bundle.bundle_sequence, bundle.held_version, bundle.held_bundle_sequence) == (2, "v1", 1)


def test_of_what_a_proxy_brought_only_its_version_is_known() -> None:
    (report,) = resource_reports([Standing("default", State.WAITING, held=Held("v0"))])
    assert (report.held_version, report.held_serial, report.HasField("held_not_after")) == ("v0", "", False)


def test_of_made_up_names_a_report_holds_a_few_shortened_ones_and_all_that_were_sent() -> None:
    long = "spiffe://a.test/" + "y" * 2000
    facts = BundleFacts("a.test", 1)
    sent = [Standing(f"{long}{n}", State.ACKNOWLEDGED, Resource("", "1", facts, PackedMessage())) for n in range(100)]
    waiting = [Standing(f"{n:03}" + "x" * 2000, State.WAITING) for n in range(128)]
    reports = resource_reports([*waiting, *sent])
    assert [each.name for each in reports if each.state == types_pb2.ResourceReport.ACKNOWLEDGED] == [
        each.name for each in sent
    ]
    names = [each.name for each in reports if each.state == types_pb2.ResourceReport.WAITING]
    assert len(names) == MAX_WAITING
    assert {len(name) for name in names} == {MAX_WAITING_CHARACTERS}
    assert names[0].startswith("000xxx")
    assert [each.name for each in resource_reports([Standing("x" * 256, State.WAITING)])] == ["x" * 256]


async def test_expiries_wake_each_at_its_moment_and_nobody_who_took_it_back() -> None:
    clock = FakeClock(NOW)
    expiries = Expiries(clock=clock)
    running = asyncio.create_task(expiries.run())
    soon, later, never = asyncio.Event(), asyncio.Event(), asyncio.Event()
    for event, seconds in ((soon, 10), (later, 20), (never, 10)):
        expiries.wake_at(event, NOW + timedelta(seconds=seconds))
    expiries.wake_at(never, None)
    await clock.advance(9)
    assert not soon.is_set()
    await clock.advance(2)
    assert (soon.is_set(), later.is_set()) == (True, False)
    await clock.advance(10)
    assert later.is_set()
    assert not never.is_set()
    running.cancel()


def test_the_revocation_lists_that_were_sent_and_those_that_are_held_are_reported_beside_the_bundle() -> None:
    sent = Resource("ROOTCA", "2", BundleFacts("a.test", 7, "new"), PackedMessage())
    standing = Standing("ROOTCA", State.SENT, sent, held=Held("1", BundleFacts("a.test", 6, "old")))
    (reported,) = resource_reports([standing])
    assert (reported.revocation_version, reported.held_revocation_version) == ("new", "old")
    (reported,) = resource_reports([standing.acknowledged()])
    assert (reported.revocation_version, reported.held_revocation_version) == ("new", "new")
    restated = Resource("ROOTCA", "2", BundleFacts("a.test", 7, "newer"), PackedMessage())
    (reported,) = resource_reports([standing.acknowledged().restated(restated)])
    assert (reported.revocation_version, reported.held_revocation_version) == ("newer", "newer")
