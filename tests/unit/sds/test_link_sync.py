from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import SystemRandom
from typing import Any

import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from grpc import aio

from citadel._wire import agent_api_pb2 as pb
from citadel._wire import types_pb2
from citadel.clock import Clock, SystemClock
from citadel.errors import PermissionDenied, Reason, Unauthenticated
from citadel.spiffe import TrustDomain
from citadel.svid import X509Svid
from citadel.wire import entry_to_wire
from sds.holdings import HeldSvid, HoldingsFeed
from sds.keep.keeper import RenewalProgress
from sds.keep.keys import new_key
from sds.keep.orders import OrderBook, RenewOrder
from sds.link.bootstrap import Bootstrap
from sds.link.identity import AgentIdentity, IdentityFile
from sds.link.link import Heeding, Link, Telling
from sds.link.memory import FILE_NAME, RevocationFile, RevocationMemory, Told
from sds.link.renewal import OwnRenewal
from sds.link.returning import Returning
from sds.link.servers import Servers
from sds.link.updates import Assembly
from tests import certificates
from tests.clock import FakeClock
from tests.revocations import revocation_set, set_message
from tests.unit.sds.fake_authority import A_TEST, FakeAuthority, entry
from tests.unit.sds.fake_server import (
    AGENT,
    HOUR,
    QUICK,
    FakeAgentApi,
    FakeReports,
    FakeSync,
    bundle_message,
    make_identity,
    now,
    own_identity,
    serve_agents,
)
from tests.unit.sds.test_schedule import FixedRandom


class Bench:
    """A link to a fake server over real mutual TLS."""

    server: aio.Server
    link: Link
    renewal: OwnRenewal

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = FakeAuthority(now())
        self.api = FakeAgentApi(self.authority)
        self.feed = HoldingsFeed()
        self.reports = FakeReports()
        self.ups = 0
        self.orders = OrderBook()

    async def start(self, lifetime: timedelta = HOUR) -> None:
        self.server, self.address = await serve_agents(self.api, self.authority)
        self.own = own_identity(self.folder, make_identity(self.authority, self.address, lifetime))
        self.feed.publish(replace(self.feed.current, bundles={A_TEST: self.authority.bundle}))
        self.memory = RevocationMemory(file=RevocationFile(self.folder, A_TEST), feed=self.feed)
        self.link = Link(
            identity=self.own,
            servers=Servers(identity=self.own, show=self._shown, clock=SystemClock(), random=SystemRandom()),
            hello=lambda: pb.Hello(agent_version="1.2.3", host="n1"),
            feed=self.feed,
            telling=Telling(reports=self.reports, progress=RenewalProgress(self.orders, self.feed)),
            heeding=Heeding(
                on_up=self._up,
                on_order=self.orders.add,
                on_revocations=self.memory.keep,
                on_roots=lambda: None,
            ),
            reconnect=QUICK,
            clock=SystemClock(),
        )

    async def _shown(self, _identity: AgentIdentity) -> list[x509.Certificate]:
        return []

    def _up(self) -> None:
        self.ups += 1

    @asynccontextmanager
    async def running(self, *, renewing: bool = False, clock: Clock | None = None) -> AsyncIterator[None]:
        renewal = self.renewal = OwnRenewal(
            identity=self.own,
            link=self.link,
            returning=Returning(
                bootstrap=Bootstrap(trust_domain=A_TEST, reconnect=QUICK, clock=SystemClock()), servers=()
            ),
            reconnect=QUICK,
            clock=clock or SystemClock(),
            random=FixedRandom(0.5) if clock else SystemRandom(),
        )
        tasks = [asyncio.create_task(self.link.run())]
        if renewing:
            tasks.append(asyncio.create_task(renewal.run()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            async with asyncio.timeout(5):
                results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(result, asyncio.CancelledError) for result in results), results

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    await made.start()
    yield made
    await made.server.stop(None)


async def test_hello_comes_first_and_a_snapshot_in_parts_is_taken_as_one(bench: Bench) -> None:
    bench.api.snapshot = [
        pb.Update(revision=7, snapshot=True, entries=[entry_to_wire(entry("web"))], more=True),
        pb.Update(revision=7, snapshot=True, entries=[entry_to_wire(entry("api"))], more=True),
    ]
    async with bench.running():
        await bench.until(lambda: bench.api.syncs and bench.api.syncs[0].messages)
        sync = bench.api.syncs[0]
        await asyncio.sleep(0.1)
        assert bench.feed.current.entries == {}
        assert sync.acknowledged() == []
        assert not bench.link.is_up
        sync.updates.put_nowait(pb.Update(revision=7, snapshot=True, bundles=[bundle_message(bench.authority.bundle)]))
        await bench.until(sync.acknowledged)
        assert sync.messages[0].hello == pb.Hello(agent_version="1.2.3", host="n1")
        assert sync.acknowledged() == [7]
        assert bench.feed.current.entries == {"web": entry("web"), "api": entry("api")}
        assert (bench.link.is_up, bench.ups) == (True, 1)


async def test_changes_are_taken_and_a_snapshot_replaces_the_entries(bench: Bench) -> None:
    async with bench.running():
        await bench.until(lambda: bench.link.is_up)
        sync = bench.api.syncs[0]
        sync.updates.put_nowait(pb.Update(revision=2, entries=map(entry_to_wire, [entry("web"), entry("api")])))
        await bench.until(lambda: sync.acknowledged() == [1, 2])
        key = new_key("ec-p256")
        held = {
            name: HeldSvid(
                entry_id=name,
                svid=X509Svid.from_der(bench.authority.issue(A_TEST.member(name), key, now(), HOUR)),
                private_key=b"",
            )
            for name in ("web", "api")
        }
        bench.feed.publish(replace(bench.feed.current, svids=held))
        sync.updates.put_nowait(pb.Update(revision=3, removed_entry_ids=["web", "unknown"]))
        await bench.until(lambda: sync.acknowledged() == [1, 2, 3])
        assert (set(bench.feed.current.entries), set(bench.feed.current.svids)) == ({"api"}, {"api"})
        sync.updates.put_nowait(pb.Update(revision=4, entries=[entry_to_wire(entry("api", dns_names=("x.local",)))]))
        await bench.until(lambda: 4 in sync.acknowledged())
        assert set(bench.feed.current.svids) == {"api"}, "the old one stays until the new one is in hand"
        renamed = entry("api", spiffe_id=A_TEST.member("renamed"))
        sync.updates.put_nowait(pb.Update(revision=5, entries=[entry_to_wire(renamed)]))
        await bench.until(lambda: 5 in sync.acknowledged())
        assert bench.feed.current.svids == {}, "the entry no longer grants the old ID"
        sync.updates.put_nowait(pb.Update(revision=6, snapshot=True, entries=[entry_to_wire(entry("new"))]))
        await bench.until(lambda: 6 in sync.acknowledged())
        assert set(bench.feed.current.entries) == {"new"}
        assert bench.feed.current.bundles == {A_TEST: bench.authority.bundle}


@pytest.mark.invariant(7)
async def test_a_foreign_domain_is_trusted_until_the_server_says_otherwise(bench: Bench) -> None:
    own = bundle_message(bench.authority.bundle)
    foreign = {
        TrustDomain(name): replace(bench.authority.bundle, trust_domain=TrustDomain(name))
        for name in ("b.test", "c.test")
    }
    async with bench.running():
        await bench.until(lambda: bench.link.is_up)
        sync = bench.api.syncs[0]
        sync.updates.put_nowait(pb.Update(revision=2, bundles=map(bundle_message, foreign.values())))
        await bench.until(lambda: 2 in sync.acknowledged())
        assert set(bench.feed.current.bundles) == {A_TEST, *foreign}
        sync.updates.put_nowait(pb.Update(revision=3, removed_bundles=["b.test", "unknown"]))
        await bench.until(lambda: 3 in sync.acknowledged())
        assert set(bench.feed.current.bundles) == {A_TEST, TrustDomain("c.test")}
        sync.updates.put_nowait(pb.Update(revision=4, snapshot=True))
        await bench.until(lambda: 4 in sync.acknowledged())
        assert set(bench.feed.current.bundles) == {A_TEST, TrustDomain("c.test")}, "nothing was said of bundles"
        unreadable = types_pb2.Bundle(trust_domain="a.test", json=b"{}")
        sync.updates.put_nowait(pb.Update(revision=5, snapshot=True, bundles=[unreadable]))
        await bench.until(lambda: 5 in sync.acknowledged())
        assert bench.feed.current.bundles == {A_TEST: bench.authority.bundle}, "named, though not readable"
        sync.updates.put_nowait(pb.Update(revision=6, snapshot=True, bundles=[own]))
        await bench.until(lambda: 6 in sync.acknowledged())
        assert bench.feed.current.bundles == {A_TEST: bench.authority.bundle}


@pytest.mark.invariant(7)
async def test_roots_for_workloads_alone_are_served_and_no_server_is_known_by_them(bench: Bench) -> None:
    """They are of another cluster of the own trust domain, which could speak for every identity, a server's too."""
    exchanged, own = certificates.root("of another cluster").certificate, bench.authority.bundle
    both = replace(own, x509_authorities=(*own.x509_authorities, exchanged), sequence=5)
    message = bundle_message(both)
    message.for_workloads_alone.append(exchanged.fingerprint(hashes.SHA256()))
    async with bench.running():
        await bench.until(lambda: bench.link.is_up)
        sync = bench.api.syncs[0]
        sync.updates.put_nowait(pb.Update(revision=2, bundles=[message]))
        await bench.until(lambda: 2 in sync.acknowledged())
        assert bench.feed.current.bundles[A_TEST] == both
        kept = IdentityFile(bench.folder).load(A_TEST)
        assert kept is not None
        assert kept.bundle == bench.own.current.bundle == replace(own, sequence=5)
        acknowledged = [m.acknowledge for m in sync.messages if m.WhichOneof("kind") == "acknowledge"]
        assert acknowledged[-1].bundle_sequence == 5
        assert len(bench.api.syncs) == 1, "nothing has changed in whom the agent believes"


@pytest.mark.invariant(8)
async def test_what_cannot_be_read_takes_nothing_from_the_rest(bench: Bench) -> None:
    bad = entry_to_wire(entry("bad"))
    bad.spiffe_id = "spiffe://A.test/bad"
    bench.api.snapshot = [
        pb.Update(
            revision=1,
            snapshot=True,
            entries=[bad, entry_to_wire(entry("good"))],
            bundles=[types_pb2.Bundle(trust_domain="a.test", json=b"{}"), types_pb2.Bundle(trust_domain="B", json=b"")],
        )
    ]
    async with bench.running():
        await bench.until(lambda: bench.link.is_up)
        assert set(bench.feed.current.entries) == {"good"}
        assert bench.feed.current.bundles == {A_TEST: bench.authority.bundle}


async def test_revoked_identities_are_those_that_the_server_named_last(bench: Bench) -> None:
    def update(revision: int, *names: str, **fields: Any) -> pb.Update:
        named = [f"spiffe://a.test/{name}" for name in names]
        return pb.Update(revision=revision, revoked_identities=types_pb2.RevokedIdentities(spiffe_ids=named), **fields)

    web, api = A_TEST.member("web"), A_TEST.member("api")
    steps = [
        (pb.Update(revision=2), set()),  # what an older server says: nothing of it
        (update(3, "web", "api"), {web, api}),
        (pb.Update(revision=4, snapshot=True), {web, api}),
        (update(5, "web", "../web"), {web}),  # one that cannot be read takes nothing from the others
        (update(6), set()),
    ]
    async with bench.running():
        await bench.until(lambda: bench.link.is_up)
        sync = bench.api.syncs[0]
        for sent, expected in steps:
            sync.updates.put_nowait(sent)
            await bench.until(lambda revision=sent.revision: revision in sync.acknowledged())
            assert bench.feed.current.revoked_identities == expected, sent
        sync.updates.put_nowait(update(7, "web", more=True))
        sync.updates.put_nowait(update(7, "api"))
        await bench.until(lambda: 7 in sync.acknowledged())
        assert bench.feed.current.revoked_identities == {web, api}


class TestRevocations:
    def update(self, revision: int, *revoked: int, of: FakeAuthority, **fields: object) -> pb.Update:
        lists = set_message(revocation_set(of.root, of.issuer, revoked=revoked))
        return pb.Update(revision=revision, revocations=lists, **fields)  # type: ignore[arg-type] # passed on

    def hold(self, bench: Bench, *names: str) -> dict[str, HeldSvid]:
        """Entries with an SVID each."""
        key, held = new_key("ec-p256"), {}
        for name in names:
            svid = X509Svid.from_der(bench.authority.issue(A_TEST.member(name), key, now(), HOUR))
            held[name] = HeldSvid(entry_id=name, svid=svid, private_key=b"")
        entries = {name: entry(name) for name in names}
        bench.feed.publish(replace(bench.feed.current, entries=entries, svids=held))
        return held

    async def test_a_set_is_taken_with_its_revision_and_acknowledged_by_its_version(self, bench: Bench) -> None:
        bench.api.snapshot = [self.update(1, of=bench.authority, snapshot=True)]
        async with bench.running():
            await bench.until(lambda: bench.link.is_up)
            first = bench.feed.current.revocations
            sync = bench.api.syncs[0]
            sync.updates.put_nowait(pb.Update(revision=2))
            await bench.until(lambda: 2 in sync.acknowledged())  # with what is in force by then
            sync.updates.put_nowait(self.update(3, 7, of=bench.authority))
            await bench.until(lambda: 3 in sync.acknowledged())
            second = bench.feed.current.revocations
            assert in_force(sync) == [first.version, first.version, second.version]
            assert first.version != second.version
            sync.updates.put_nowait(self.update(4, 7, of=bench.authority))  # signed once more, and says the same
            await bench.until(lambda: 4 in sync.acknowledged())
            assert bench.feed.current.revocations is second
            sync.updates.put_nowait(pb.Update(revision=5, revocations=types_pb2.RevocationSet()))
            await bench.until(lambda: 5 in sync.acknowledged())
            assert in_force(sync)[-1] == bench.feed.current.revocations.version == ""

    async def test_the_parts_of_a_revision_make_one_set(self, bench: Bench) -> None:
        whole = revocation_set(bench.authority.root, bench.authority.issuer)
        halves = [types_pb2.RevocationSet(lists=[each]) for each in set_message(whole).lists]
        bench.api.snapshot = [
            pb.Update(revision=1, snapshot=True, revocations=halves[0], more=True),
            pb.Update(revision=1, revocations=halves[1]),
        ]
        async with bench.running():
            await bench.until(lambda: bench.link.is_up)
            assert bench.feed.current.revocations.version == whole.version

    async def test_an_svid_that_it_revokes_is_dropped_in_the_same_step_and_nothing_else(self, bench: Bench) -> None:
        seen = []

        async with bench.running():
            await bench.until(lambda: bench.link.is_up)
            held = self.hold(bench, "web", "api")
            serial = held["web"].svid.leaf.serial_number
            with structlog.testing.capture_logs() as logs:
                bench.api.syncs[0].updates.put_nowait(self.update(2, serial, of=bench.authority))
                while not (current := bench.feed.current).revocations.lists:
                    seen.append(current.svids.keys())
                    await asyncio.sleep(0)
            assert current.svids == {"api": held["api"]}
            assert all(each == {"web", "api"} for each in seen)
            assert current.entries.keys() == {"web", "api"}
        told = [log for log in logs if log["event"] == "svid was revoked"]
        assert [log["serial"] for log in told] == [held["web"].svid.serial]

    @pytest.mark.invariant(9)
    async def test_a_set_that_cannot_be_relied_on_changes_nothing_and_what_is_in_force_is_told(
        self, bench: Bench
    ) -> None:
        bench.api.snapshot = [self.update(1, of=bench.authority, snapshot=True)]
        stranger = FakeAuthority(now(), "stranger")
        async with bench.running():
            await bench.until(lambda: bench.link.is_up)
            sync, good = bench.api.syncs[0], bench.feed.current.revocations
            held = self.hold(bench, "web")
            serial = held["web"].svid.leaf.serial_number
            bad = self.update(2, serial, of=bench.authority)
            bad.revocations.lists.append(self.update(2, of=stranger).revocations.lists[0])
            bad.entries.append(entry_to_wire(entry("new")))
            with structlog.testing.capture_logs() as logs:
                sync.updates.put_nowait(bad)
                await bench.until(lambda: 2 in sync.acknowledged())
            assert bench.feed.current.revocations is good
            assert in_force(sync) == [good.version, good.version]
            assert bench.feed.current.svids == held
            assert bench.feed.current.entries.keys() == {"web", "new"}, "the rest of the change is taken"
        refused = [log for log in logs if log["log_level"] == "error"]
        assert [log["reason"] for log in refused] == [Reason.REVOCATIONS_MALFORMED]

    async def test_a_set_is_judged_by_the_bundle_of_the_same_change(self, bench: Bench) -> None:
        successor = FakeAuthority(now(), "next", sequence=2)
        both = replace(
            successor.bundle,
            x509_authorities=(*bench.authority.bundle.x509_authorities, *successor.bundle.x509_authorities),
        )
        async with bench.running():
            await bench.until(lambda: bench.link.is_up)
            bundles = [bundle_message(both)]
            bench.api.syncs[0].updates.put_nowait(self.update(2, of=successor, bundles=bundles))
            await bench.until(lambda: bench.feed.current.revocations.lists)
            assert bench.feed.current.revocations.covers_roots_of(successor.bundle)

    @pytest.mark.invariant(12)
    async def test_it_is_on_disk_before_it_is_acknowledged_and_not_written_again_while_it_is_the_same(
        self, bench: Bench
    ) -> None:
        web, path = A_TEST.member("web"), bench.folder / FILE_NAME
        named = types_pb2.RevokedIdentities(spiffe_ids=[str(web)])
        bench.api.snapshot = [self.update(1, 7, of=bench.authority, revoked_identities=named, snapshot=True)]
        async with bench.running():
            await bench.until(lambda: bench.link.is_up)
            told = RevocationFile(bench.folder, A_TEST).load(bundle=bench.authority.bundle, now=now())
            assert told is not None
            assert (told.lists.version, told.identities) == (bench.feed.current.revocations.version, {web})
            sync, written = bench.api.syncs[0], path.stat().st_ino
            sync.updates.put_nowait(self.update(2, 7, of=bench.authority, revoked_identities=named))
            await bench.until(lambda: 2 in sync.acknowledged())
            assert path.stat().st_ino == written
            sync.updates.put_nowait(pb.Update(revision=3, revoked_identities=types_pb2.RevokedIdentities()))
            await bench.until(lambda: 3 in sync.acknowledged())
            told = RevocationFile(bench.folder, A_TEST).load(bundle=bench.authority.bundle, now=now())
            assert told is not None
            assert (told.lists.version, told.identities) == (bench.feed.current.revocations.version, frozenset())

    async def test_a_disk_that_refuses_it_takes_nothing_from_the_rest(self, bench: Bench) -> None:
        (bench.folder / FILE_NAME).mkdir()
        bench.api.snapshot = [self.update(1, 7, of=bench.authority, snapshot=True)]
        with structlog.testing.capture_logs() as logs:
            async with bench.running():
                await bench.until(lambda: bench.link.is_up)
        assert bench.feed.current.revocations.lists
        assert [log["file"] for log in logs if log["log_level"] == "error"] == [str(bench.folder / FILE_NAME)]

    async def test_what_was_recalled_counts_until_the_server_says_more_and_is_never_told_as_more_than_it_is(
        self, bench: Bench
    ) -> None:
        """A server that is older, or sends what cannot be relied on, leaves it in force, and sees so."""
        older = Told(revocation_set(bench.authority.root, bench.authority.issuer, revoked=[7]), frozenset())
        RevocationFile(bench.folder, A_TEST).save(older)
        await bench.memory.recall(bundle=bench.authority.bundle, now=now())
        stranger = FakeAuthority(now(), "stranger")
        bench.api.snapshot = [self.update(1, 7, 8, of=stranger, snapshot=True)]
        async with bench.running():
            await bench.until(lambda: bench.link.is_up)
            sync = bench.api.syncs[0]
            await bench.until(lambda: 1 in sync.acknowledged())
            assert in_force(sync) == [older.lists.version]
            sync.updates.put_nowait(self.update(2, 7, 8, of=bench.authority))
            await bench.until(lambda: 2 in sync.acknowledged())
            newer = revocation_set(bench.authority.root, bench.authority.issuer, revoked=[7, 8])
            assert in_force(sync) == [older.lists.version, newer.version]

    async def test_of_two_lines_that_are_up_what_came_first_is_never_taken_last(self, bench: Bench) -> None:
        """Reading a long list takes longer than taking the change that comes next."""
        serials = range(1 << 150, (1 << 150) + 50_000)
        async with bench.running():
            await bench.until(lambda: bench.link.is_up)
            slow = self.update(2, *serials, of=bench.authority, entries=[entry_to_wire(entry("web"))])
            quick = self.update(3, of=bench.authority, removed_entry_ids=["web"])
            changes = [Assembly().add(each) for each in (slow, quick)]
            # As two streams do, each from a task of its own.
            await asyncio.gather(*(bench.link._take(each) for each in changes if each is not None))
            assert bench.feed.current.entries == {}
            assert not any(len(each.crl) for each in bench.feed.current.revocations.lists)


def in_force(sync: FakeSync) -> list[str]:
    """The version of the revocation lists in each acknowledgement."""
    return [m.acknowledge.revocation_version for m in sync.messages if m.WhichOneof("kind") == "acknowledge"]


async def test_stream_reports_go_up_as_a_snapshot_then_as_changes_together(bench: Bench) -> None:
    bench.reports.put("before")
    async with bench.running():
        await bench.until(lambda: bench.api.syncs and bench.api.syncs[0].reported())
        sync = bench.api.syncs[0]
        first = sync.reported()[0]
        assert (first.snapshot, [report.stream_id for report in first.reports]) == (True, ["before"])
        for pid in range(100):
            bench.reports.put("busy", pid=pid)
        bench.reports.put("before", closed=True)
        await bench.until(lambda: len(sync.reported()) > 1)
        await asyncio.sleep(0.1)
        (second,) = sync.reported()[1:]
        assert not second.snapshot
        assert {(report.stream_id, report.closed) for report in second.reports} == {("busy", False), ("before", True)}
        many = [f"s{number}" for number in range(1201)]
        for name in many:
            bench.reports.put(name)
        await bench.until(lambda: sum(len(each.reports) for each in sync.reported()[2:]) == len(many))
        assert max(len(each.reports) for each in sync.reported()) <= 500


async def test_reports_of_any_size_go_up_in_messages_that_the_server_takes(bench: Bench) -> None:
    names = [f"s{number}" for number in range(60)]
    for name in names:
        bench.reports.put(name, executable="x" * 200_000)
    async with bench.running():
        await bench.until(lambda: bench.api.syncs and bench.api.syncs[0].reported())
        sync = bench.api.syncs[0]
        await bench.until(lambda: sum(len(each.reports) for each in sync.reported()) == len(names))
        assert [report.stream_id for each in sync.reported() for report in each.reports] == names
        assert [each.snapshot for each in sync.reported()] == [True] + [False] * (len(sync.reported()) - 1)
        assert max(each.ByteSize() for each in sync.reported()) < 1_100_000


async def test_reports_of_many_resources_go_up_in_messages_that_the_server_takes(bench: Bench) -> None:
    awaited = [types_pb2.ResourceReport(name="w")] * 4000
    for name in "12345":
        bench.reports.put(name, resources=awaited)
    async with bench.running():
        await bench.until(lambda: bench.api.syncs and bench.api.syncs[0].reported())
        sync = bench.api.syncs[0]
        await bench.until(lambda: sum(len(each.reports) for each in sync.reported()) == 5)
        told = [[report.stream_id for report in each.reports] for each in sync.reported()]
        assert told == [["1", "2"], ["3", "4"], ["5"]]


async def test_that_no_stream_lives_is_reported_too(bench: Bench) -> None:
    async with bench.running():
        await bench.until(lambda: bench.api.syncs and bench.api.syncs[0].reported())
        assert bench.api.syncs[0].reported() == [pb.Streams(snapshot=True)]


@pytest.mark.invariant(5)
async def test_a_server_that_restarts_is_found_again_and_told_all_while_what_is_held_stays(bench: Bench) -> None:
    bench.api.snapshot = [pb.Update(revision=1, snapshot=True, entries=[entry_to_wire(entry("web"))])]
    with structlog.testing.capture_logs() as logs:
        async with bench.running():
            await bench.until(lambda: bench.link.is_up)
            await bench.server.stop(None)
            await bench.until(lambda: not bench.link.is_up)
            bench.reports.put("meanwhile")
            await asyncio.sleep(0.5)  # several tries
            assert set(bench.feed.current.entries) == {"web"}
            bench.server, _ = await serve_agents(bench.api, bench.authority, port=bench.address.port)
            await bench.until(lambda: bench.ups == 2)
            sync = bench.api.syncs[-1]
            await bench.until(sync.reported)
            assert sync.reported()[0].snapshot
            assert [report.stream_id for report in sync.reported()[0].reports] == ["meanwhile"]
    told = [log for log in logs if log["event"].startswith(("connected", "no connection"))]
    assert [log["log_level"] for log in told] == ["info", "warning", "info"]


@pytest.mark.invariant(5)
@pytest.mark.parametrize(
    "refusal", [PermissionDenied(Reason.AGENT_BANNED, "banned"), Unauthenticated(Reason.AGENT_UNKNOWN, "unknown")]
)
async def test_an_agent_that_is_refused_keeps_what_it_has_and_tries_on_slowly(
    bench: Bench, refusal: PermissionDenied | Unauthenticated
) -> None:
    bench.api.snapshot = [pb.Update(revision=1, snapshot=True, entries=[entry_to_wire(entry("web"))])]
    with structlog.testing.capture_logs() as logs:
        async with bench.running():
            await bench.until(lambda: bench.link.is_up)
            bench.api.refusal = refusal
            bench.api.syncs[0].updates.put_nowait(None)
            await bench.until(lambda: bench.api.attempts == 2)
            begun = time.monotonic()
            await bench.until(lambda: bench.api.attempts >= 6)
            assert time.monotonic() - begun >= 0.29  # three whole waits, each the longest one of 0.1 s
            assert set(bench.feed.current.entries) == {"web"}
            bench.api.refusal = None
            await bench.until(lambda: bench.link.is_up)
            assert sum("_consume_request_iterator" in repr(task) for task in asyncio.all_tasks()) == 1
    assert [log["reason"] for log in logs if log["log_level"] == "warning"].count(refusal.reason) == 1


@pytest.mark.invariant(12)
async def test_a_new_bundle_is_on_disk_before_it_is_acknowledged_and_the_link_goes_over_to_it(bench: Bench) -> None:
    both = replace(
        bench.authority.bundle,
        x509_authorities=(*bench.authority.bundle.x509_authorities, FakeAuthority(now(), "next").root.certificate),
        sequence=2,
    )
    async with bench.running():
        await bench.until(lambda: bench.link.is_up)
        old = bench.api.syncs[0]
        bench.api.snapshot[0].bundles.append(bundle_message(both))
        old.updates.put_nowait(pb.Update(revision=2, bundles=[bundle_message(both)]))
        await bench.until(lambda: old.acknowledged() == [1, 2] or old.has_ended)
        loaded = bench.own._file.load(A_TEST)
        assert loaded is not None
        assert loaded.bundle == both
        assert bench.feed.current.bundles == {A_TEST: both}
        await bench.until(lambda: len(bench.api.syncs) == 2 and old.has_ended)
        assert bench.link.is_up
        await asyncio.sleep(0.1)
        assert len(bench.api.syncs) == 2


async def test_the_own_svid_is_renewed_at_half_life_and_the_new_stream_is_up_before_the_old_one_ends(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    await bench.start(lifetime=timedelta(seconds=1))  # backdated by 10 s, so past its half-life
    async with bench.running(renewing=True):
        await bench.until(lambda: len(bench.api.syncs) == 2)
        old, new = bench.api.syncs
        await bench.until(lambda: old.has_ended)
        assert not new.has_ended
        assert bench.link.is_up
        loaded = bench.own._file.load(A_TEST)
        assert loaded is not None
        assert f"{loaded.svid.leaf.serial_number:x}" == new.serial != old.serial
        assert loaded.next_key is None
        assert loaded.svid.spiffe_id == AGENT
        assert len(bench.api.renewals) == 1
    await bench.server.stop(None)


@pytest.mark.invariant(12)
async def test_a_renewal_whose_answer_was_lost_is_asked_again_for_the_same_key_which_was_on_disk_first(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    await bench.start(lifetime=timedelta(seconds=2))
    bench.api.lose_renewals = 3
    old_key = bench.own.current.key
    async with bench.running(renewing=True):
        await bench.until(lambda: len(bench.api.renewals) == 1)
        loaded = bench.own._file.load(A_TEST)
        assert loaded is not None
        assert loaded.next_key is not None
        wanted = loaded.next_key.public_key()
        assert bench.own.current.key is old_key
        await bench.until(lambda: bench.own.current.key is not old_key)
        assert bench.own.current.key.public_key() == wanted
        assert len(bench.api.renewals) == 4
    await bench.server.stop(None)


@pytest.mark.parametrize(("window", "seconds"), [(timedelta(minutes=4), 30.0), (timedelta(0), 0.0)])
async def test_an_order_renews_the_agent_s_own_svid_in_the_first_quarter_of_its_window(
    bench: Bench, window: timedelta, seconds: float
) -> None:
    clock, first = FakeClock(start=now()), bench.own.current.svid.serial
    async with bench.running(renewing=True, clock=clock):
        await bench.until(lambda: bench.link.is_up)
        await clock.advance(0)
        bench.renewal.obey(own_order(window))
        if seconds:
            await clock.advance(seconds - 0.1)
            assert bench.api.renewals == []
            await clock.advance(0.2)
        await bench.until(lambda: bench.own.current.svid.serial != first)
        assert len(bench.api.renewals) == 1


def own_order(window: timedelta) -> RenewOrder:
    return RenewOrder(
        id="1-own",
        own=True,
        svids=False,
        issuer_key_ids=frozenset(),
        not_before_until=None,
        spiffe_id=None,
        window=window,
    )


async def test_an_old_stream_stays_until_the_new_one_is_up(bench: Bench) -> None:
    async with bench.running():
        await bench.until(lambda: bench.link.is_up)
        bench.api.snapshot = []
        bench.link.move()
        await bench.until(lambda: len(bench.api.syncs) == 2)
        old, new = bench.api.syncs
        old.updates.put_nowait(pb.Update(revision=2, entries=[entry_to_wire(entry("web"))]))
        await bench.until(lambda: set(bench.feed.current.entries) == {"web"})
        assert (old.has_ended, bench.link.is_up) == (False, True)
        new.updates.put_nowait(pb.Update(revision=2, snapshot=True, entries=[entry_to_wire(entry("web"))]))
        await bench.until(lambda: old.has_ended)
        assert bench.link.is_up
        await bench.until(new.reported)
        assert new.reported()[0].snapshot


async def test_a_move_that_is_overtaken_by_another_costs_nothing(bench: Bench) -> None:
    async with bench.running():
        await bench.until(lambda: bench.link.is_up)
        snapshot, bench.api.snapshot = bench.api.snapshot, []
        bench.link.move()
        await bench.until(lambda: len(bench.api.syncs) == 2)
        bench.link.move()
        await bench.until(lambda: len(bench.api.syncs) == 3 and bench.api.syncs[1].has_ended)
        old, _, new = bench.api.syncs
        assert (old.has_ended, bench.link.is_up) == (False, True)
        new.updates.put_nowait(snapshot[0])
        await bench.until(lambda: old.has_ended)
        assert (new.has_ended, bench.link.is_up) == (False, True)


async def test_the_server_is_told_how_far_an_order_is_also_where_that_is_nothing_and_only_when_it_changes(
    bench: Bench,
) -> None:
    async with bench.running():
        await bench.until(lambda: bench.link.is_up)
        sync = bench.api.syncs[0]

        def told() -> list[tuple[str, int]]:
            reports = [each.progress.orders for each in sync.messages if each.WhichOneof("kind") == "progress"]
            return [(each.order_id, each.left) for orders in reports for each in orders]

        issued = bench.authority.issue(A_TEST.member("web"), new_key("ec-p256"), now(), HOUR)
        held = HeldSvid(entry_id="web", svid=X509Svid.from_der(issued), private_key=b"")
        sync.updates.put_nowait(pb.Update(revision=2, renew=pb.RenewOrder(id="1", svids=True)))
        await bench.until(lambda: told() == [("1", 0)])
        bench.feed.publish(replace(bench.feed.current, svids={"web": held}))
        await bench.until(lambda: told() == [("1", 0), ("1", 1)])
        sync.updates.put_nowait(pb.Update(revision=3, renew=pb.RenewOrder(id="1-own", own=True)))
        await bench.until(lambda: 3 in sync.acknowledged())
        bench.feed.publish(replace(bench.feed.current, svids={}))
        await bench.until(lambda: told() == [("1", 0), ("1", 1), ("1", 0)])


@pytest.mark.parametrize("changes", [{"own": False, "svids": True}, {"issuer_key_ids": frozenset({b"another"})}])
async def test_an_order_about_something_else_leaves_the_agent_s_own_svid_alone(
    bench: Bench, changes: dict[str, Any]
) -> None:
    clock = FakeClock(start=now())
    async with bench.running(renewing=True, clock=clock):
        await bench.until(lambda: bench.link.is_up)
        bench.renewal.obey(replace(own_order(timedelta(0)), **changes))
        bench.renewal.look_again()  # the root of the own SVID is there still
        await clock.advance(60)
        assert bench.api.renewals == []


async def test_an_agent_whose_root_is_gone_renews_at_once(bench: Bench) -> None:
    clock, first = FakeClock(start=now()), bench.own.current.svid.serial
    async with bench.running(renewing=True, clock=clock):
        await bench.until(lambda: bench.link.is_up)
        bench.api.authority = FakeAuthority(now(), "two")
        await bench.own.change(bundle=replace(bench.api.authority.bundle, sequence=2))
        bench.renewal.look_again()
        await clock.advance(0)
        await bench.until(lambda: bench.own.current.svid.serial != first)
        assert len(bench.api.renewals) == 1


@pytest.mark.invariant(5)
async def test_a_defect_in_what_is_reported_ends_that_stream_and_not_the_line(bench: Bench) -> None:
    """gRPC cancels a call whose messages cannot be made, and says so as if the agent itself were ending."""
    whole = bench.reports.snapshot

    def broken() -> list[types_pb2.StreamReport]:
        bench.reports.snapshot = whole
        raise RuntimeError("a defect")

    bench.reports.snapshot = broken
    async with bench.running():
        await bench.until(lambda: len(bench.api.syncs) == 2 and bench.api.syncs[1].reported())
