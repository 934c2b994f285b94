"""The Workload API on a real socket with holdings made by hand and a clock that tests own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from structlog.testing import capture_logs

from citadel._wire import types_pb2
from citadel.bundle import TrustBundle
from citadel.errors import CitadelError
from citadel.peer import Caller
from citadel.selector import Selector
from citadel.spiffe import TrustDomain
from sds.authz.counts import Decisions
from sds.holdings import HoldingsFeed
from sds.serve.callers import LOOK_AGAIN, Attestation
from sds.serve.registry import StreamRegistry
from sds.serve.server import WorkloadServer
from sds.workload.snapshot import Snapshot, SnapshotShelf
from sds.workload.stream import PATIENCE
from tests import certificates
from tests.certificates import A_TEST, B_TEST, NOW
from tests.clock import FakeClock
from tests.revocations import revocation_set
from tests.servers import refusal
from tests.unit.sds.authorizing import FixedPolicies
from tests.unit.sds.fake_tokens import token_keeper
from tests.unit.sds.holding import ROOT, UID_1, empty_bundle, entry, held, holdings, own_bundle
from tests.workloads import Workload, workload_at

REPORT = types_pb2.ResourceReport
SECOND = timedelta(seconds=1)
C_TEST = TrustDomain("c.test")
NO_IDENTITY = (grpc.StatusCode.PERMISSION_DENIED, "no_identity")
NOT_READY = (grpc.StatusCode.UNAVAILABLE, "not_ready")


class FakeAttestor:
    """Sees these selectors in every caller."""

    def __init__(self) -> None:
        self.seen = {UID_1}
        self.is_complete = True

    async def attest(self, caller: Caller, *, want_sha256: bool) -> Attestation:
        del caller, want_sha256
        return Attestation(selectors=frozenset(self.seen), executable="/bin/workload", is_complete=self.is_complete)


class Node:
    """The serving side of an agent."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.feed = HoldingsFeed()
        self.clock = FakeClock(NOW)
        self.registry = StreamRegistry(clock=self.clock)
        self.attestor = FakeAttestor()
        self.has_heard = True
        self.refusals: list[CitadelError] = []
        self.server = WorkloadServer(
            socket=socket,
            relay_dir=socket.with_name("relay"),
            trust_domain=A_TEST,
            feed=self.feed,
            attestor=self.attestor,
            registry=self.registry,
            tokens=token_keeper(self.feed, self.clock),
            clock=self.clock,
            policies=FixedPolicies(self.clock),
            decisions=Decisions(on_refusal=lambda _, error, **_by: self.refusals.append(error)),
            has_heard=lambda: self.has_heard,
            on_refusal=lambda _, error: self.refusals.append(error),
        )

    def stands(self) -> list[dict[str, int]]:
        return [{each.name: each.state for each in report.resources} for report in self.registry.live()]

    def lists_held(self) -> list[str]:
        """The revocation lists that each stream has been told, by their version."""
        reports = [each for report in self.registry.live() for each in report.resources]
        return [each.held_revocation_version for each in reports if each.trust_domain == A_TEST.name]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path / "agent.sock")
    await node.server.start()
    yield node
    await node.server.close(grace=0)


@pytest.fixture
async def workload(node: Node) -> AsyncIterator[Workload]:
    async with workload_at(node.socket) as workload:
        yield workload


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def waits(call: Any) -> asyncio.Task[Any]:
    """A read that does not end by itself."""
    reading = asyncio.create_task(call.read())
    await asyncio.sleep(0.1)
    assert not reading.done()
    return reading


def ids(message: Any) -> list[str]:
    return [svid.spiffe_id.rpartition("/")[2] for svid in message.svids]


class TestWhoIsRefusedAndHow:
    @pytest.mark.spec("WEP-17", "WEP-19")
    @pytest.mark.parametrize("method", ["svids", "bundles"])
    @pytest.mark.parametrize(("has_heard", "expected"), [(False, NOT_READY), (True, NO_IDENTITY)])
    async def test_without_an_entry_it_depends_on_whether_the_server_was_heard(
        self, node: Node, workload: Workload, method: str, *, has_heard: bool, expected: object
    ) -> None:
        node.has_heard = has_heard
        assert await refusal(getattr(workload, method)().read()) == expected

    async def test_what_is_held_is_given_although_the_server_was_not_heard(
        self, node: Node, workload: Workload
    ) -> None:
        node.has_heard = False
        web = entry("web")
        node.feed.publish(holdings([web], [held(web)]))
        assert ids(await workload.svids().read()) == ["web"]

    async def test_who_has_an_entry_waits_for_the_certificate(self, node: Node, workload: Workload) -> None:
        web = entry("web")
        node.feed.publish(holdings([web]))
        reading = await waits(workload.svids())
        await node.clock.advance(PATIENCE - 0.1)
        node.feed.publish(holdings([web], [held(web)]))
        assert ids(await reading) == ["web"]

    @pytest.mark.spec("WEP-17")
    async def test_and_is_told_to_come_again_when_it_does_not_come(self, node: Node, workload: Workload) -> None:
        node.feed.publish(holdings([entry("web")]))
        reading = await waits(workload.svids())
        await node.clock.advance(PATIENCE - 0.1)
        assert not reading.done()
        await node.clock.advance(0.2)
        assert await refusal(reading) == NOT_READY
        assert await workload.bundles().read()  # for these it need not wait

    async def test_who_loses_its_entry_while_it_waits_has_no_identity(self, node: Node, workload: Workload) -> None:
        node.feed.publish(holdings([entry("web")]))
        reading = await waits(workload.svids())
        node.feed.publish(holdings([]))
        assert await refusal(reading) == NO_IDENTITY

    @pytest.mark.spec("WAPI-27")
    @pytest.mark.parametrize("method", ["svids", "bundles"])
    async def test_an_entry_s_own_expiry_ends_the_stream(self, node: Node, workload: Workload, method: str) -> None:
        web = entry("web", expires_at=NOW + 30 * SECOND)
        node.feed.publish(holdings([web], [held(web)]))
        call = getattr(workload, method)()
        await call.read()
        reading = await waits(call)
        await node.clock.advance(31)
        assert await refusal(reading) == NO_IDENTITY
        await eventually(lambda: node.registry.live() == [])


class TestWhatIsSent:
    @pytest.mark.spec("WAPI-43")
    async def test_nobody_is_another_identity_until_the_first_one_s_certificate_came(
        self, node: Node, workload: Workload
    ) -> None:
        first, second = entry("first", created_at=NOW - 2 * SECOND), entry("second", created_at=NOW - SECOND)
        bundle = own_bundle()
        node.feed.publish(holdings([first, second], [held(second)], bundle))
        reading = await waits(workload.svids())
        node.feed.publish(holdings([first, second], [held(first), held(second)], bundle))
        assert ids(await reading) == ["first", "second"]

    @pytest.mark.spec("WAPI-08", "WAPI-07")
    async def test_an_identity_that_still_waits_takes_nothing_from_the_others(
        self, node: Node, workload: Workload
    ) -> None:
        first, second = entry("first", created_at=NOW - 2 * SECOND), entry("second", created_at=NOW - SECOND)
        bundle, of_first = own_bundle(), held(first)
        node.feed.publish(holdings([first, second], [of_first], bundle))
        call = workload.svids()
        assert ids(await call.read()) == ["first"]
        node.feed.publish(holdings([first, second], [of_first, held(second)], bundle))
        assert ids(await call.read()) == ["first", "second"]

    @pytest.mark.spec("WAPI-20", "WAPI-21", "WAPI-22", "WAPI-29")
    @pytest.mark.invariant(7)
    async def test_foreign_bundles_stand_apart_under_the_ids_of_their_domains(
        self, node: Node, workload: Workload
    ) -> None:
        theirs = certificates.root(uri="spiffe://b.test")
        foreign = certificates.bundle(theirs, trust_domain=B_TEST, sequence=1)
        web, job = entry("web"), entry("job", federates_with=frozenset({B_TEST}))
        node.feed.publish(holdings([web, job], [held(web), held(job)], own_bundle(), foreign))
        message = await workload.svids().read()
        assert {svid.bundle for svid in message.svids} == {ROOT.der}
        assert dict(message.federated_bundles) == {"spiffe://b.test": theirs.der}
        bundles = await workload.bundles().read()
        assert dict(bundles.bundles) == {"spiffe://a.test": ROOT.der, "spiffe://b.test": theirs.der}

    @pytest.mark.spec("WAPI-22")
    async def test_a_bundle_that_no_entry_asks_for_is_not_sent(self, node: Node, workload: Workload) -> None:
        foreign = certificates.bundle(certificates.root(), trust_domain=B_TEST, sequence=1)
        web = entry("web")
        node.feed.publish(holdings([web], [held(web)], own_bundle(), foreign))
        assert not (await workload.svids().read()).federated_bundles
        assert set((await workload.bundles().read()).bundles) == {"spiffe://a.test"}

    @pytest.mark.spec("WAPI-17")
    @pytest.mark.invariant(9)
    async def test_trust_in_nobody_is_said_by_a_root_that_signed_nothing(self, node: Node, workload: Workload) -> None:
        web = entry("web", federates_with=frozenset({B_TEST}))
        node.feed.publish(holdings([web], [held(web)], empty_bundle(), empty_bundle(B_TEST)))
        message = await workload.svids().read()
        nobody = certificates.x509.load_der_x509_certificate(message.svids[0].bundle)
        assert nobody.public_bytes(Encoding.DER) != ROOT.der
        assert not message.federated_bundles  # of a foreign domain nothing is enough: no bundle is no trust
        bundles = await workload.bundles().read()
        assert dict(bundles.bundles) == {"spiffe://a.test": message.svids[0].bundle}

    async def test_of_two_entries_of_one_identity_there_is_one_certificate(
        self, node: Node, workload: Workload
    ) -> None:
        old = entry("old", spiffe_id=A_TEST.member("web"), created_at=NOW - 2 * SECOND, hint="old")
        new = entry("new", spiffe_id=A_TEST.member("web"), created_at=NOW - SECOND, hint="new")
        node.feed.publish(holdings([old, new], [held(old), held(new)]))
        message = await workload.svids().read()
        assert [(svid.spiffe_id, svid.hint) for svid in message.svids] == [("spiffe://a.test/web", "old")]

    async def test_a_certificate_that_has_ended_is_not_sent(self, node: Node, workload: Workload) -> None:
        first, second = entry("first", created_at=NOW - 2 * SECOND), entry("second", created_at=NOW - SECOND)
        node.feed.publish(holdings([first, second], [held(first), held(second, until=NOW + 10 * SECOND)]))
        call = workload.svids()
        assert ids(await call.read()) == ["first", "second"]
        await node.clock.advance(11)
        assert ids(await call.read()) == ["first"]


def test_of_callers_that_look_ever_different_a_bounded_number_is_remembered() -> None:
    web, shelf = entry("web"), SnapshotShelf(trust_domain=A_TEST)
    there = holdings([web], [held(web)])
    for number in range(1100):
        seen = frozenset((UID_1, Selector("unix", f"path:/tmp/{number}")))
        assert shelf.snapshot(there, seen, NOW).is_entitled
    assert len(shelf._by_selectors) <= 1024


def test_callers_who_trust_the_same_domains_share_what_says_so_until_it_changes() -> None:
    web, api = entry("web"), entry("api", Selector("unix", "uid:2"))
    foreign = entry("foreign", Selector("unix", "uid:3"), federates_with=frozenset({B_TEST}))
    shelf = SnapshotShelf(trust_domain=A_TEST)
    entries, svids = (web, api, foreign), (held(web), held(api), held(foreign))
    of_b = certificates.bundle(certificates.root(uri="spiffe://b.test"), trust_domain=B_TEST)

    def told(*bundles: TrustBundle) -> tuple[Snapshot, ...]:
        there = holdings(entries, svids, *bundles)
        return tuple(shelf.snapshot(there, frozenset((Selector("unix", f"uid:{uid}"),)), NOW) for uid in (1, 2, 3))

    one, same, other = told(own_bundle(), of_b)
    assert one.bundles is same.bundles is not None
    assert one.jwt_bundles is same.jwt_bundles is not None
    assert one.svids is not None
    assert one.svids is not same.svids
    assert other.bundles is not None
    assert other.bundles.message.bundles.keys() == {"spiffe://a.test", "spiffe://b.test"}
    assert one.bundles.message.bundles.keys() == {"spiffe://a.test"}

    later, *_ = told(own_bundle(2, ROOT, certificates.root()), of_b)
    assert later.bundles is not None
    assert later.bundles.message != one.bundles.message


@pytest.mark.invariant(9)
def test_a_foreign_bundle_that_is_too_large_costs_neither_the_own_certificate_nor_other_domains() -> None:
    """Many clients take 4 MiB, and refuse the whole message for more."""
    shelf, web = SnapshotShelf(trust_domain=A_TEST), entry("web", federates_with=frozenset({B_TEST, C_TEST}))
    filler = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.2"), bytes(2 << 20))
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    large = certificates.root(uri="spiffe://b.test", extra=((filler, False),))
    of_b = certificates.bundle(
        large,
        trust_domain=B_TEST,
        jwt_authorities={"k" * (3 << 20): key},
    )
    of_c = certificates.bundle(
        certificates.root(uri="spiffe://c.test"), trust_domain=C_TEST, jwt_authorities={"k": key}
    )
    there = holdings([web], [held(web)], own_bundle(), of_b, of_c)
    with capture_logs() as logs:
        for uid in (1, 2):  # two kinds of callers
            seen = frozenset((UID_1, Selector("unix", f"gid:{uid}")))
            told = shelf.snapshot(there, seen, NOW)
            assert told.svids is not None
            assert told.bundles is not None
            assert told.jwt_bundles is not None
            assert ids(told.svids.message) == ["web"]
            assert told.svids.message.federated_bundles.keys() == {"spiffe://c.test"}
            assert told.bundles.message.bundles.keys() == {"spiffe://a.test", "spiffe://c.test"}
            assert told.jwt_bundles.message.bundles.keys() == {"spiffe://a.test", "spiffe://c.test"}
    assert [each["trust_domain"] for each in logs] == ["b.test"], "told once"
    shelf.snapshot(holdings([web], [held(web)], own_bundle()), frozenset((UID_1,)), NOW)
    assert shelf._encoded.keys() == {A_TEST}, "what is gone takes no room"


class TestWhenItIsSent:
    @pytest.mark.spec("WAPI-09")
    async def test_changes_of_others_and_the_same_content_again_are_not_sent(
        self, node: Node, workload: Workload
    ) -> None:
        web, of_web, other = entry("web"), held(entry("web")), entry("other", Selector("unix", "uid:2"))
        node.feed.publish(holdings([web], [of_web], own_bundle()))
        call = workload.svids()
        await call.read()
        node.feed.publish(holdings([web, other], [of_web, held(other)], own_bundle(2)))
        node.feed.publish(replace(node.feed.current))
        await node.clock.advance(600)
        assert await call.is_silent()

    async def test_changes_that_come_together_are_sent_as_one_the_newest(self, node: Node, workload: Workload) -> None:
        web = entry("web")
        node.feed.publish(holdings([web], [held(web)]))
        call = workload.svids()
        await call.read()
        for _ in range(20):
            newest = held(web)
            node.feed.publish(replace(node.feed.current, svids={"web": newest}))
        assert (await call.read()).svids[0].x509_svid == newest.svid.chain_der[0]
        assert await call.is_silent()

    @pytest.mark.spec("WAPI-09")
    async def test_a_new_root_is_sent_on_both_streams(self, node: Node, workload: Workload) -> None:
        web = entry("web")
        of_web, other = held(web), certificates.root()
        node.feed.publish(holdings([web], [of_web]))
        svids, bundles = workload.svids(), workload.bundles()
        await svids.read()
        await bundles.read()
        both = own_bundle(2, ROOT, other)
        node.feed.publish(holdings([web], [of_web], both))
        der = b"".join(each.public_bytes(Encoding.DER) for each in both.x509_authorities)
        assert (await svids.read()).svids[0].bundle == der
        assert (await bundles.read()).bundles["spiffe://a.test"] == der

    @pytest.mark.spec("FED-41", "WAPI-11")
    @pytest.mark.parametrize("how", ["the bundle is gone", "it became empty", "the entry federates no longer"])
    async def test_open_streams_are_told_that_a_foreign_domain_is_trusted_no_longer(
        self, node: Node, workload: Workload, how: str
    ) -> None:
        theirs = certificates.bundle(certificates.root(uri="spiffe://b.test"), trust_domain=B_TEST, sequence=1)
        web, own = entry("web", federates_with=frozenset({B_TEST})), own_bundle()
        svid = held(web)
        node.feed.publish(holdings([web], [svid], own, theirs))
        svids, bundles = workload.svids(), workload.bundles()
        assert (await svids.read()).federated_bundles.keys() == {"spiffe://b.test"}
        await bundles.read()
        match how:
            case "the bundle is gone":
                node.feed.publish(holdings([web], [svid], own))
            case "it became empty":
                node.feed.publish(holdings([web], [svid], own, empty_bundle(B_TEST)))
            case _:
                node.feed.publish(holdings([entry("web")], [svid], own, theirs))
        message = await svids.read()
        assert (len(message.svids), message.federated_bundles.keys()) == (1, set())
        assert (await bundles.read()).bundles.keys() == {"spiffe://a.test"}

    async def test_who_could_not_be_seen_whole_gets_more_once_it_can_be(self, node: Node, workload: Workload) -> None:
        web, named = entry("web"), entry("named", Selector("unix", "user:web"))
        node.feed.publish(holdings([web, named], [held(web), held(named)]))
        node.attestor.is_complete = False
        call = workload.svids()
        assert ids(await call.read()) == ["web"]
        node.attestor.seen.add(Selector("unix", "user:web"))
        node.attestor.is_complete = True
        reading = await waits(call)
        await node.clock.advance(LOOK_AGAIN + 1)
        assert set(ids(await reading)) == {"web", "named"}


class TestRevocationLists:
    """Of our own domain alone, whole, or not at all."""

    issuer = certificates.intermediate(ROOT)

    @pytest.mark.spec("WAPI-07", "WAPI-09")
    async def test_they_stand_in_both_messages_and_new_ones_are_sent_and_reported(
        self, node: Node, workload: Workload
    ) -> None:
        web, lists = entry("web", federates_with=frozenset({B_TEST})), revocation_set(ROOT, self.issuer)
        theirs = certificates.bundle(certificates.root(uri="spiffe://b.test"), trust_domain=B_TEST)
        there = holdings([web], [held(web, issuer=self.issuer)], own_bundle(), theirs)
        node.feed.publish(replace(there, revocations=lists))
        svids, bundles = workload.svids(), workload.bundles()
        for call in (svids, bundles):
            assert list((await call.read()).crl) == [each.der for each in lists.lists]
        await eventually(lambda: node.lists_held() == [lists.version, lists.version])
        more = revocation_set(ROOT, self.issuer, revoked=(7,))
        node.feed.publish(replace(there, revocations=more))
        for call in (svids, bundles):
            assert list((await call.read()).crl) == [each.der for each in more.lists]
        await eventually(lambda: node.lists_held() == [more.version, more.version])
        reported = {each.name: each for report in node.registry.live() for each in report.resources}
        assert reported["spiffe://a.test"].revocation_version == more.version
        assert reported["spiffe://b.test"].held_revocation_version == ""

    async def test_there_are_none_where_one_is_missing(self, node: Node, workload: Workload) -> None:
        web = entry("web")
        of_web, other = held(web, issuer=self.issuer), certificates.intermediate(ROOT)
        for lists in (revocation_set(self.issuer), revocation_set(ROOT, other), revocation_set(ROOT)):
            node.feed.publish(replace(holdings([web], [of_web]), revocations=lists))
            message = await workload.svids().read()
            assert not message.crl
            assert message.svids
        await eventually(lambda: set(node.lists_held()) == {""})

    @pytest.mark.invariant(5)
    async def test_too_many_for_a_message_that_clients_take_are_left_out(self, node: Node, workload: Workload) -> None:
        web = entry("web")
        lists = revocation_set(ROOT, self.issuer, revoked=range(1 << 150, (1 << 150) + 30_000))
        node.feed.publish(replace(holdings([web], [held(web, issuer=self.issuer)]), revocations=lists))
        message = await workload.svids().read()
        assert message.svids
        assert not message.crl


class TestWhatIsReported:
    async def test_a_message_counts_once_it_was_written(self, node: Node, workload: Workload) -> None:
        web = entry("web")
        node.feed.publish(holdings([web], [held(web)]))
        call = workload.svids()
        await call.read()
        written = {"spiffe://a.test/web": REPORT.ACKNOWLEDGED, "spiffe://a.test": REPORT.ACKNOWLEDGED}
        await eventually(lambda: node.stands() == [written])
        (report,) = node.registry.live()
        svid = node.feed.current.svids["web"].svid
        assert (report.protocol, report.executable) == ("workload-api", "/bin/workload")
        assert report.resources[0].serial == report.resources[0].held_serial == svid.serial
        assert report.resources[0].not_after.ToDatetime(tzinfo=NOW.tzinfo) == svid.not_after
        assert report.resources[1].bundle_sequence == report.resources[1].held_bundle_sequence == 1
        call.cancel()
        await eventually(lambda: node.registry.live() == [])

    async def test_the_same_roots_with_a_newer_sequence_are_reported_and_not_sent(
        self, node: Node, workload: Workload
    ) -> None:
        web = entry("web")
        of_web = held(web)
        node.feed.publish(holdings([web], [of_web]))
        call = workload.svids()
        await call.read()
        node.feed.publish(holdings([web], [of_web], own_bundle(7)))
        await eventually(lambda: node.registry.live()[0].resources[1].bundle_sequence == 7)
        assert await call.is_silent()

    @pytest.mark.invariant(1)
    async def test_no_report_holds_anything_of_a_key(self, node: Node, workload: Workload) -> None:
        web = entry("web")
        mine = held(web)
        node.feed.publish(holdings([web], [mine]))
        message = await workload.svids().read()
        assert message.svids[0].x509_svid_key == mine.private_key
        reported = b"".join(report.SerializeToString() for report in node.registry.take_changed())
        assert reported
        assert mine.private_key[-40:] not in reported
