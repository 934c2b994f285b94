"""What a Sync stream says: a snapshot first, and from then on only what changed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from ca.api import reported, update_parts
from ca.api.sessions import AgentSession, SessionBook
from ca.entries.watch import EntryNews
from citadel._wire import agent_api_pb2 as pb
from citadel._wire import types_pb2
from citadel.bundle import TrustBundle
from citadel.entry import Entry
from citadel.errors import InvalidArgument, Reason
from citadel.spiffe import TrustDomain
from citadel.wire import entry_from_wire, to_duration
from tests.unit.ca.values import A_TEST, NODE_1, NODE_2, NOW, agent, entry

BUNDLE = TrustBundle(trust_domain=A_TEST, sequence=1)
ACKNOWLEDGED = types_pb2.ResourceReport.ACKNOWLEDGED


@pytest.fixture
def session() -> AgentSession:
    return AgentSession(agent=agent(), connected_at=NOW)


def told(session: AgentSession, *entries: Entry, bundle: TrustBundle = BUNDLE, revision: int = 1) -> list[pb.Update]:
    """What is said when these are all the entries."""
    news = EntryNews(is_everything=True, entries={e.id: e for e in entries})
    return list(session.updates(news=news, bundles={bundle.trust_domain: bundle}, revision=revision))


def known(updates: list[pb.Update], before: dict[str, Entry] | None = None) -> dict[str, Entry]:
    """What an agent knows that takes these updates as the protocol says."""
    entries = dict(before or {})
    for update in updates:
        if update is updates[0] and update.snapshot:
            entries.clear()
        entries |= {message.id: entry_from_wire(message) for message in update.entries}
        for entry_id in update.removed_entry_ids:
            del entries[entry_id]
    return entries


def test_the_first_update_is_a_snapshot_with_the_bundle_even_when_there_is_nothing(session: AgentSession) -> None:
    (update,) = told(session, revision=7)
    assert update.snapshot
    assert (update.revision, update.more, len(update.entries)) == (7, False, 0)
    assert [bundle.json for bundle in update.bundles] == [BUNDLE.to_json()]


def test_nothing_is_said_twice(session: AgentSession) -> None:
    web = entry()
    told(session, web)
    assert told(session, web, revision=2) == []


def test_only_what_changed_is_said(session: AgentSession) -> None:
    web, shop, gone = entry("/web"), entry("/shop"), entry("/gone")
    before = known(told(session, web, shop, gone))
    changed = replace(shop, hint="new", revision=2)
    (update,) = told(session, web, changed, fresh := entry("/fresh"), revision=2)
    assert not update.snapshot
    assert {message.id for message in update.entries} == {shop.id, fresh.id}
    assert list(update.removed_entry_ids) == [gone.id]
    assert not update.bundles
    assert known([update], before) == {e.id: e for e in (web, changed, fresh)}


def test_a_removal_alone_is_said(session: AgentSession) -> None:
    web = entry()
    told(session, web)
    (update,) = told(session, revision=2)
    assert list(update.removed_entry_ids) == [web.id]


def test_a_changed_bundle_alone_is_said(session: AgentSession) -> None:
    told(session)
    newer = replace(BUNDLE, sequence=2)
    (update,) = told(session, bundle=newer)
    assert [bundle.json for bundle in update.bundles] == [newer.to_json()]
    assert not update.entries


def test_a_domain_that_is_trusted_no_longer_is_said_once(session: AgentSession) -> None:
    foreign, news = TrustDomain("b.test"), EntryNews(is_everything=True, entries={})
    both = {A_TEST: BUNDLE, foreign: TrustBundle(trust_domain=foreign, sequence=1)}
    list(session.updates(news=news, bundles=both, revision=1))
    for expected in (["b.test"], []):
        updates = list(session.updates(news=news, bundles={A_TEST: BUNDLE}, revision=2))
        assert [name for update in updates for name in update.removed_bundles] == expected


def test_a_few_changes_are_said_without_looking_at_the_rest(session: AgentSession) -> None:
    web, shop = entry("/web"), entry("/shop")
    before = known(told(session, web, shop))
    changed = replace(web, revision=2)
    news = EntryNews(is_everything=False, entries={web.id: changed}, others=frozenset({"never-theirs", shop.id}))
    updates = list(session.updates(news=news, bundles={A_TEST: BUNDLE}, revision=2))
    assert [list(update.removed_entry_ids) for update in updates] == [[shop.id]]
    assert known(updates, before) == {web.id: changed}


def test_revoked_identities_are_said_at_first_and_when_they_change_with_nothing_else(session: AgentSession) -> None:
    def told_of(revoked: tuple[types_pb2.RevokedIdentities, ...]) -> list[pb.Update]:
        news = EntryNews(is_everything=False, entries={})
        return list(session.updates(news=news, bundles={A_TEST: BUNDLE}, revision=3, revoked=revoked))

    none = (types_pb2.RevokedIdentities(),)
    some = (types_pb2.RevokedIdentities(spiffe_ids=["spiffe://a.test/web"]),)
    (first,) = told_of(none)
    assert (first.snapshot, first.HasField("revoked_identities")) == (True, True), "it replaces what an agent knew"
    assert told_of(none) == []
    assert told_of(some) == [pb.Update(revision=3, revoked_identities=some[0])]
    assert told_of(none) == [pb.Update(revision=3, revoked_identities=none[0])]


def test_very_many_removals_come_in_parts(session: AgentSession) -> None:
    entries = [entry(f"/w{number}") for number in range(20_001)]
    before = known(told(session, *entries))
    updates = told(session, fresh := entry("/fresh"), revision=2)
    assert [len(update.removed_entry_ids) for update in updates] == [10_000, 10_000, 1]
    assert known(updates, before) == {fresh.id: fresh}


def test_very_many_revoked_identities_come_in_parts_with_all_else_that_changed(session: AgentSession) -> None:
    told(session, gone := entry("/gone"))
    revoked = [types_pb2.RevokedIdentities(spiffe_ids=[f"spiffe://a.test/w{number}"]) for number in range(3)]
    news = EntryNews(is_everything=True, entries={(fresh := entry("/fresh")).id: fresh})
    updates = list(session.updates(news=news, bundles={A_TEST: BUNDLE}, revision=3, revoked=revoked))
    assert [list(update.revoked_identities.spiffe_ids) for update in updates] == [
        [f"spiffe://a.test/w{n}"] for n in range(3)
    ]
    assert [(update.revision, update.snapshot, update.more) for update in updates] == [
        (3, False, True),
        (3, False, True),
        (3, False, False),
    ]
    assert known(updates, {gone.id: gone}) == {fresh.id: fresh}


def test_many_entries_come_in_parts_that_belong_together(session: AgentSession) -> None:
    entries = [entry(f"/w{number}") for number in range(1200)]
    updates = told(session, *entries, revision=1200)
    assert [len(update.entries) for update in updates] == [500, 500, 200]
    assert [update.more for update in updates] == [True, True, False]
    assert [update.snapshot for update in updates] == [True, True, True]
    assert {update.revision for update in updates} == {1200}
    assert [len(update.bundles) for update in updates] == [1, 0, 0]
    assert known(updates) == {e.id: e for e in entries}


def test_a_change_in_parts_says_the_removals_once(session: AgentSession) -> None:
    gone = entry("/gone")
    before = known(told(session, gone))
    entries = [entry(f"/w{number}") for number in range(501)]
    updates = told(session, *entries, revision=2)
    assert [update.snapshot for update in updates] == [False, False]
    assert known(updates, before) == {e.id: e for e in entries}


def report(stream_id: str, **fields: Any) -> types_pb2.StreamReport:
    resources = [types_pb2.ResourceReport(name="default", state=ACKNOWLEDGED)]
    return types_pb2.StreamReport(stream_id=stream_id, resources=resources, **fields)


def streams(*reports: types_pb2.StreamReport, snapshot: bool = False) -> pb.AgentMessage:
    return pb.AgentMessage(streams=pb.Streams(snapshot=snapshot, reports=reports))


def test_stream_reports_add_up_and_a_snapshot_replaces_them(session: AgentSession) -> None:
    session.take(streams(report("1"), report("2"), snapshot=True))
    session.take(streams(report("3"), report("1", pid=7)))
    assert {key: found.pid for key, found in session.streams.items()} == {"1": 7, "2": 0, "3": 0}
    session.take(streams(report("2", closed=True), report("unknown", closed=True)))
    assert set(session.streams) == {"1", "3"}
    session.take(streams(report("9"), snapshot=True))
    assert set(session.streams) == {"9"}


def test_beyond_the_limit_no_stream_is_added_but_known_ones_stay_current(
    session: AgentSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reported, "_MOST_STREAMS", 2)
    session.take(streams(report("1"), report("2"), report("3")))
    session.take(streams(report("1", pid=7)))
    assert {key: found.pid for key, found in session.streams.items()} == {"1": 7, "2": 0}


def left(stream_id: str, seconds: float = 0.0) -> types_pb2.StreamReport:
    """It was closed so long ago, and its process goes on."""
    return report(stream_id, closed=True, closed_for=to_duration(timedelta(seconds=seconds)))


@pytest.mark.invariant(4)
def test_of_closed_streams_those_whose_processes_go_on_are_kept_apart_until_they_are_gone(
    session: AgentSession,
) -> None:
    session.take(streams(report("1"), report("2"), left("before", 20), snapshot=True), at=100)
    session.take(streams(left("1", 3)), at=110)
    assert set(session.streams) == {"2"}
    assert {key: found.at for key, found in session.reported.closed.items()} == {"before": 80, "1": 107}
    session.take(streams(report("before", closed=True)), at=120)
    assert set(session.reported.closed) == {"1"}
    session.take(streams(report("1")), at=120)  # no agent says so, and nothing is counted twice if one does
    assert (set(session.streams), set(session.reported.closed)) == ({"1", "2"}, set())
    session.take(streams(left("1")), at=120)
    session.take(streams(report("9"), snapshot=True), at=130)
    assert (set(session.streams), set(session.reported.closed)) == ({"9"}, set())


def test_closed_streams_count_for_what_one_agent_is_remembered_for(
    session: AgentSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reported, "_MOST_STREAMS", 2)
    session.take(streams(report("1"), left("2"), left("3")))
    assert (set(session.streams), set(session.reported.closed)) == ({"1"}, {"2"})
    assert session.reported.is_over


def test_what_is_told_again_and_again_costs_the_room_that_it_takes_once(
    session: AgentSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "x" * 10_000  # of which only a part is kept
    monkeypatch.setattr(reported, "_MOST_STREAM_BYTES", 10_000)
    for _ in range(100):
        session.take(streams(report("1", node_id=long), left("2"), report("3")))
        session.take(streams(left("3"), report("2", closed=True)))
    assert not session.reported.is_over


def test_acknowledgement_and_version_are_kept(session: AgentSession) -> None:
    session.take(pb.AgentMessage(hello=pb.Hello(agent_version="v" * 1000)))
    session.take(pb.AgentMessage(acknowledge=pb.Acknowledge(revision=42)))
    assert session.version == "v" * 100
    assert session.acknowledged_revision == 42


async def test_of_two_sessions_of_one_agent_the_newest_counts_until_it_ends() -> None:
    book = SessionBook(most_silent=2, hello_timeout=timedelta(seconds=10))
    old, new, other = (AgentSession(agent=agent(who), connected_at=NOW) for who in (NODE_1, NODE_1, NODE_2))
    for session in (old, other, new):
        book.open(session)
    assert book.newest() == {NODE_1: new, NODE_2: other}
    book.close(new)
    assert book.newest() == {NODE_1: old, NODE_2: other}
    book.end_all()
    assert (old.is_ending, other.is_ending, new.is_ending) == (True, True, False)
    assert (old.wake.is_set(), other.wake.is_set(), new.wake.is_set()) == (True, True, False)


async def test_all_are_woken_some_at_a_time_also_who_had_looked_already_when_there_is_more_news() -> None:
    book = SessionBook(most_silent=2, hello_timeout=timedelta(seconds=10))
    opened = [
        AgentSession(agent=agent(A_TEST.member("citadel", "agent", f"n{number}")), connected_at=NOW)
        for number in range(100)
    ]
    for session in opened:
        book.open(session)
    book.wake_all()
    assert 0 < sum(session.wake.is_set() for session in opened) < 50
    opened[0].wake.clear()
    book.wake_all()
    for _ in opened:
        await asyncio.sleep(0)
    assert all(session.wake.is_set() for session in opened)


def test_large_entries_come_in_parts_that_an_agent_can_take(session: AgentSession) -> None:
    path = "/p" * 1000
    entries = [
        entry(f"/w{number}", NODE_1, *(f"unix:path:{path}{selector}" for selector in range(100)))
        for number in range(20)
    ]
    updates = told(session, *entries)
    assert max(update.ByteSize() for update in updates) < 1.1 * 1024 * 1024
    assert [update.more for update in updates] == [True] * (len(updates) - 1) + [False]
    assert known(updates) == {e.id: e for e in entries}


def test_an_entry_larger_than_a_part_comes_alone(session: AgentSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_parts, "_BYTES_PER_PART", 1)
    entries = [entry(f"/w{number}") for number in range(3)]
    assert [len(update.entries) for update in told(session, *entries)] == [0, 1, 1, 1]


def test_what_is_large_beside_the_entries_comes_in_parts_too() -> None:
    """An agent takes 16 MiB in one message: lists, bundles and entries may be that together, and never come."""
    large = bytes(6 << 20)
    first = pb.Update(revocations=types_pb2.RevocationSet())
    rest = update_parts.Rest(
        lists=[types_pb2.RevocationList(issuer=issuer, crl=large) for issuer in (b"east", b"west")],
        bundles=[types_pb2.Bundle(trust_domain=name, json=large) for name in ("a.test", "b.test")],
        revoked=[],
        removed=["gone"],
        entries=[entry("/web")],
    )
    parts = list(update_parts.in_parts(first, rest, revision=3, is_snapshot=True))
    assert max(part.ByteSize() for part in parts) < 7 << 20
    assert [[each.issuer for each in part.revocations.lists] for part in parts[1:3]] == [[b"east"], [b"west"]]
    assert [[bundle.trust_domain for bundle in part.bundles] for part in parts[3:5]] == [["a.test"], ["b.test"]]
    assert [len(part.entries) + len(part.removed_entry_ids) for part in parts] == [0, 0, 0, 0, 0, 2]
    assert [part.more for part in parts] == [True, True, True, True, True, False]


def test_lists_are_said_when_they_change_and_as_one_set(session: AgentSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_parts, "_BYTES_PER_PART", 1)
    some = types_pb2.RevocationSet(lists=[types_pb2.RevocationList(crl=crl) for crl in (b"1", b"2", b"3")])
    none = types_pb2.RevocationSet()
    for lists in (some, none):
        for is_new in (True, False):
            news = EntryNews(is_everything=True, entries={})
            parts = list(session.updates(news=news, bundles={}, revision=1, lists=lists))
            said = [part.revocations for part in parts if part.HasField("revocations")]
            assert bool(said) is is_new, "an empty set is one too"
            assert [each for one in said for each in one.lists] == (list(lists.lists) if is_new else [])


def test_a_resource_takes_room_though_it_is_empty(session: AgentSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reported, "_MOST_STREAM_BYTES", 100_000)
    empty = [types_pb2.ResourceReport()] * 300
    one, other = (types_pb2.StreamReport(stream_id=each, resources=empty) for each in "12")
    session.take(streams(one, other))
    assert set(session.streams) == {"1"}
    assert session.reported.is_over
    session.take(streams(report("1"), other))
    assert set(session.streams) == {"1", "2"}


def test_a_message_of_more_streams_than_an_agent_sends_is_refused_whole(session: AgentSession) -> None:
    with pytest.raises(InvalidArgument) as refused:
        session.take(streams(*[report("1")] * 2001))
    assert refused.value.reason is Reason.REQUEST_MALFORMED
    assert session.streams == {}
    session.take(streams(*[report("1")] * 2000))
    assert set(session.streams) == {"1"}


def test_reports_are_remembered_up_to_a_number_of_bytes(session: AgentSession, monkeypatch: pytest.MonkeyPatch) -> None:
    size = report("1", executable="x" * 1000).ByteSize() + 2 * 256  # for itself and its resource
    monkeypatch.setattr(reported, "_MOST_STREAM_BYTES", 2 * size)
    long = {"executable": "x" * 1000}
    with capture_logs() as lines:
        session.take(streams(report("1", **long), report("2", **long), report("3", **long)))
        session.take(streams(report("4", **long)))
    assert set(session.streams) == {"1", "2"}
    assert [line["event"] for line in lines] == ["agent reports more than is remembered"]
    session.take(streams(report("1", executable="y" * 1000)))  # a known one stays current
    assert session.streams["1"].executable == "y" * 1000
    session.take(streams(report("2", closed=True), report("3", **long)))
    assert set(session.streams) == {"1", "3"}
    session.take(streams(report("5", **long), report("6", **long), snapshot=True))
    assert set(session.streams) == {"5", "6"}


def test_a_report_does_not_keep_its_message_in_memory(session: AgentSession) -> None:
    message = streams(report("1"))
    session.take(message)
    message.streams.reports[0].pid = 99
    assert session.streams["1"].pid == 0


def test_of_many_sessions_of_one_agent_the_oldest_are_ended() -> None:
    book = SessionBook(most_silent=2, hello_timeout=timedelta(seconds=10))
    own = [AgentSession(agent=agent(NODE_1), connected_at=NOW) for _ in range(5)]
    other = AgentSession(agent=agent(NODE_2), connected_at=NOW)
    for session in (other, *own):
        book.open(session)
    assert [session.is_ending for session in own] == [True, True, False, False, False]
    assert [session.wake.is_set() for session in own] == [True, True, False, False, False]
    assert not other.is_ending


def test_what_an_agent_says_of_streams_can_be_shown_and_stored() -> None:
    """PostgreSQL refuses a row with a NUL, and a rotation's alarm names whom it waited for."""
    session = AgentSession(agent=agent(), connected_at=NOW)
    resource = types_pb2.ResourceReport(name="a\x00b", refusal="\x1b[2J" + "x" * 10_000, held_issuer_key_id=b"\x00")
    report = types_pb2.StreamReport(stream_id="1\x00", node_id="n" * 5000, pid=7, resources=[resource])
    session.take(pb.AgentMessage(streams=pb.Streams(snapshot=True, reports=[report])))
    ((stream_id, kept),) = session.streams.items()
    assert stream_id == kept.stream_id == "1 "
    assert (len(kept.node_id), kept.pid) == (2048, 7)
    assert kept.resources[0].name == "a b"
    assert kept.resources[0].refusal == " [2J" + "x" * 496
    assert kept.resources[0].held_issuer_key_id == b"\x00"
    closed = types_pb2.StreamReport(stream_id="1\x00", closed=True)
    session.take(pb.AgentMessage(streams=pb.Streams(reports=[closed])))
    assert session.streams == {}
