"""Rotations at a parent of clusters: whom they wait for, and what the clusters are told meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from prometheus_client import CollectorRegistry

from ca.authority.model import AuthorityKind
from ca.clusters import records
from ca.clusters.condition import clusters_check
from ca.clusters.metrics import ClusterCollector
from ca.rotation.model import Phase, RotationKind
from citadel._wire import clusters_pb2 as pb
from citadel._wire import rotation_pb2
from citadel.errors import Reason
from citadel.probes import Check, Health
from tests.clock import FakeClock
from tests.csrs import new_key
from tests.stores import MigratedStores
from tests.unit.ca.cluster import EAST, WEST, Cluster, ends
from tests.unit.ca.parent import FakeParent
from tests.unit.ca.rotating import HOUR, Disk, Fate, Server, nodes
from tests.unit.ca.values import ADMINISTRATOR

ROOT, ISSUER, JWT = RotationKind.ROOT, RotationKind.ISSUER, RotationKind.JWT


@pytest.fixture
def store_url(tmp_path: Path, migrated_stores: MigratedStores) -> str:
    return migrated_stores.sqlite(tmp_path / "store.db")


@pytest.fixture
def parent_disk(disk: Disk) -> Disk:
    disk.is_parent = True
    return disk


@pytest.fixture
async def server(parent_disk: Disk) -> AsyncIterator[Server]:
    """With a mesh of two nodes that has settled."""
    async with parent_disk.server() as server:
        for node in nodes():
            await server.join(node)
        await server.turn()
        yield server


@pytest.fixture
async def east(server: Server) -> Cluster:
    return await _joined(server, Cluster(EAST))


@pytest.fixture
async def west(server: Server) -> Cluster:
    return await _joined(server, Cluster(WEST))


async def _joined(server: Server, cluster: Cluster) -> Cluster:
    await cluster.join(server)
    await server.until(lambda: any(each.crl == cluster.issuers[0].crl() for each in cluster.trust.revocations.lists))
    return cluster


@pytest.mark.invariant(3)
@pytest.mark.invariant(4)
async def test_a_new_root_waits_for_the_acknowledgement_and_the_authorities_of_every_cluster(
    server: Server, east: Cluster, west: Cluster
) -> None:
    old = server.active(AuthorityKind.ROOT)
    east.is_silent, east.own.proxies_acknowledged = True, 1
    east.own.holders.add(name="node-7/4", words="pid 7 refused ROOTCA: no")
    east.own.holder_count = 2
    east.stays = west.stays = True
    await server.begin(ROOT)
    await server.until(lambda: server.holders().keys() == {str(EAST)})
    words = "2 of 3 proxies have not acknowledged: node-7/4 (pid 7 refused ROOTCA: no); 1 more"
    assert server.holders() == {str(EAST): words}
    assert server.active(AuthorityKind.ROOT) == old
    east.is_silent = False
    await server.until(lambda: server.active(AuthorityKind.ROOT) != old)
    # Nobody here depends on the old root; it stays for what the clusters have signed.
    await server.phase(Phase.DRAIN)
    await server.until(lambda: server.holders().keys() == {str(EAST), str(WEST)})
    assert server.holders()[str(WEST)] == "the cluster has an issuing authority under the old root"
    assert sorted(east.states().values()) == ["active", "old"]
    west.stays, west.own.phase = False, "observe"
    await server.until(lambda: server.holders().keys() == {str(EAST)})
    east.stays = False
    done = await server.over()
    assert (done.phase, done.alarm) == (Phase.DONE, "")
    assert old.certificate not in server.authorities.bundle().x509_authorities
    await server.until(lambda: set(east.states().values()) == {"active"})


@pytest.mark.invariant(3)
@pytest.mark.parametrize("kind", [ISSUER, JWT], ids=["issuer", "jwt"])
async def test_whatever_signs_next_waits_for_every_cluster(server: Server, east: Cluster, kind: RotationKind) -> None:
    east.is_silent, east.own.proxies = True, 0
    await server.begin(kind)
    await server.until(lambda: server.holders() == {str(EAST): "the cluster has not acknowledged"})
    east.is_silent = False
    assert (await server.over()).alarm == ""


async def test_a_cluster_that_is_away_is_waited_for_until_its_authorities_have_ended(
    server: Server, east: Cluster
) -> None:
    east.leave()
    await server.begin(ROOT)
    words = "the cluster is away, and its authorities are valid"
    await server.until(lambda: server.holders() == {str(EAST): words})
    ((holder, _),) = server.rotator.view().holders
    assert holder.until == ends(east)
    (view,) = server.rotator.view().clusters
    assert (view.name, view.connected, view.HasField("since")) == (str(EAST), False, True)


async def test_a_cluster_that_a_person_skips_is_not_waited_for(server: Server, east: Cluster) -> None:
    east.leave()
    await server.begin(ROOT)
    await server.until(lambda: str(EAST) in server.holders())
    await server.steering.skip(str(EAST), why="it is gone", by=ADMINISTRATOR)
    done = await server.over()
    assert (done.phase, done.alarm, done.skipped) == (Phase.DONE, "", {str(EAST)})


async def test_in_an_emergency_clusters_are_told_at_once_and_nobody_waits(server: Server, east: Cluster) -> None:
    east.is_silent = east.stays = True
    old = server.active(AuthorityKind.ROOT)
    begun = await server.begin(ROOT, deadline=timedelta(seconds=30))
    await server.until(lambda: "tainted" in east.states().values())
    assert server.active(AuthorityKind.ROOT) != old
    assert server.clock.now() < begun.started_at + timedelta(seconds=5)
    assert str(EAST) in (await server.over()).alarm
    assert server.authorities.bundle().x509_authorities == (server.active(AuthorityKind.ROOT).certificate,)
    # Nothing that it signed is believed any more: nobody waits for it, and its lists are of no use.
    east.leave()
    assert list(server.children.without(is_jwt=False)) == []
    await server.until(lambda: len(server.lists.current.lists) == 2)


async def test_what_everybody_knows_is_told_when_every_proxy_and_cluster_does(
    server: Server, east: Cluster, west: Cluster
) -> None:
    def knows(half: str) -> bool:
        return all(getattr(c.everywhere, half) == getattr(c.trust.versions, half) for c in (east, west))

    node = server.nodes[0]
    await server.until(lambda: knows("x509") and knows("jwt"))
    node.is_silent = True
    await west.sign()
    await server.until(lambda: len(west.trust.revocations.lists) == 5)
    for _ in range(10):
        await server.turn()
    assert not knows("x509")
    assert knows("jwt")
    node.is_silent, east.is_silent = False, True
    await west.sign()
    await server.until(lambda: len(west.trust.revocations.lists) == 6)
    for _ in range(10):
        await server.turn()
    assert not knows("x509")
    assert [holder.name for holder in server.knowing.holders(is_jwt=False)] == [str(EAST)]
    east.is_silent = False
    await server.until(lambda: knows("x509"))


async def test_whom_a_person_skips_holds_up_no_cluster_either(server: Server, east: Cluster) -> None:
    """Otherwise the new authority of the cluster would wait for that proxy, and the rotation for the cluster."""
    server.nodes[0].is_silent = True
    await server.begin(ROOT)
    await server.until(lambda: "node-1/1" in server.holders())
    await server.steering.skip("node-1/1", why="nobody needs it", by=ADMINISTRATOR)
    await server.phase(Phase.DRAIN)
    await server.until(lambda: len(east.issuers) == 1 and set(east.states().values()) == {"active", "old"})


async def test_a_parent_that_restarts_knows_what_its_clusters_said(parent_disk: Disk) -> None:
    async with parent_disk.server() as server:
        east = await _joined(server, Cluster(EAST))
        east.keys = {"east-1": new_key().public_key()}
        await server.until(lambda: b"east-1" in east.trust.bundle.json)
        before = (server.authorities.bundle(), server.lists.current.version)
        east.leave()
        await server.turn()
        assert (server.authorities.bundle(), server.lists.current.version) == before
    async with parent_disk.server() as server:
        assert (server.authorities.bundle(), server.lists.current.version) == before
        await server.begin(ROOT)
        await server.until(lambda: str(EAST) in server.holders())
        # It comes back under the root that it knows, and only says what it said.
        await east.join(server)
        assert (await server.over()).alarm == ""
        assert len(east.issuers) == 1


async def test_nobody_checks_lists_while_an_authority_may_sign_whose_list_nobody_has(parent_disk: Disk) -> None:
    async with parent_disk.server() as server:
        await _joined(server, Cluster(WEST))
        east = Cluster(EAST)
        await east.join(server)
        await _leaves_unsaid(server, east)
        # It lost what it was given then: what it names is all that it has on record.
        await _joined(server, again := Cluster(EAST))
        await server.until(lambda: len(server.lists.current.lists) == 4)
        again.leave()
        await server.turn()
        assert len(server.lists.current.lists) == 4
        again.connect()
        await again.sign()
        await _leaves_unsaid(server, again)
        # Whoever deletes its entry says that nobody need wait for it.
        for each in list(server.directory.all().values()):
            if each.spiffe_id == EAST:
                server.directory.remove(each.id, revision=server.directory.revision + 1)
        await server.until(lambda: len(server.lists.current.lists) == 4)


@pytest.mark.invariant(9)
async def test_nothing_is_pushed_that_every_agent_would_refuse(server: Server, east: Cluster, west: Cluster) -> None:
    """They would keep what they have, whatever came after it. Whose fault it is, is said."""
    east.stays = True
    await east.sign(key=east.issuers[0].key)  # which no parent grants
    await server.until(lambda: not west.trust.revocations_are_whole)
    assert server.lists.trouble == (
        "agents would refuse all of them: two revocation lists are of one authority, and no verifier asks both"
    )
    del east.issuers[1]
    await server.until(lambda: len(west.trust.revocations.lists) == 4)


async def test_lists_that_do_not_fit_into_what_a_child_takes_are_not_pushed(
    server: Server, east: Cluster, west: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(east.issuers[0].crl()) + len(west.issuers[0].crl())
    monkeypatch.setattr(records, "_MOST_BYTES", size)
    assert list(server.records.missing()) == []
    monkeypatch.setattr(records, "_MOST_BYTES", size - 1)
    words = f"the lists of all child clusters have {size} bytes, more than the {size - 1} that can be pushed"
    assert list(server.records.missing()) == [words]
    assert _check(server).health is Health.DEGRADED
    await east.sign()
    await server.until(lambda: not server.lists.current.lists)


async def test_of_two_servers_with_one_identity_neither_loses_its_certificates_and_it_is_said(server: Server) -> None:
    def pushed() -> set[x509.Certificate]:
        return {each.issuer for each in server.lists.current.lists if not each.is_of_root}

    first, second = Cluster(EAST), Cluster(EAST)
    first.keys, second.keys = ({name: new_key().public_key()} for name in ("first", "second"))
    await first.join(server)
    one = first.issuers[0].certificate
    await server.until(lambda: one in pushed())
    await second.join(server)
    two = second.issuers[0].certificate
    for number, other in enumerate((first, second, first)):  # each opens its stream anew once it was ended
        await server.until(lambda: {one, two} <= pushed())
        assert {"first", "second"} <= server.authorities.bundle().jwt_authorities.keys()
        assert {each.certificate for each in server.records.in_use(EAST)} == {one, two}
        assert _check(server).text.endswith(f"two servers come as {EAST}") is (number > 0)
        for each in (first, second):
            each.session = None
        other.connect()
        for _ in range(5):
            await server.turn()
    first.keys = {"later": new_key().public_key()}  # as after the one before has leaked: of its own it speaks alone
    await server.until(lambda: "first" not in server.authorities.bundle().jwt_authorities)
    assert "second" in server.authorities.bundle().jwt_authorities
    server.clock.leap(300)
    await server.until(lambda: two not in pushed())  # it is gone, and the one that is left says what there is
    assert one in pushed()
    assert "second" not in server.authorities.bundle().jwt_authorities
    assert _check(server).health is Health.GOOD


async def test_a_child_that_changes_all_the_time_does_not_keep_the_others_from_knowing_what_is_in_force(
    server: Server, east: Cluster, west: Cluster
) -> None:
    before, key = server.authorities.sequences().jwt, new_key().public_key()
    for number in range(40):
        east.keys = {f"east-{number}": key}
        await server.turn()
    settled = server.authorities.sequences().jwt
    assert 10 < settled - before <= 20
    assert server.tally.refused == {Reason.TOO_MANY_REQUESTS: 1}
    await server.until(lambda: west.everywhere == west.trust.versions)
    west.keys = {"west-1": key}  # it is not held up
    await server.until(lambda: "west-1" in server.authorities.bundle().jwt_authorities)
    server.clock.leap(10)
    await server.until(lambda: "east-39" in server.authorities.bundle().jwt_authorities)


async def test_a_child_that_opens_another_stream_is_one_also_with_another_authority(
    server: Server, east: Cluster
) -> None:
    for _ in range(2):
        east.connect()
        await server.turn()
    left = east.issuers[0].certificate
    await east.sign()
    east.issuers = east.issuers[1:]
    east.connect()
    await server.turn()
    assert left in {each.certificate for each in server.records.in_use(EAST)}
    server.clock.leap(5)
    await server.until(lambda: left not in {each.certificate for each in server.records.in_use(EAST)})
    assert _check(server).health is Health.GOOD


def _check(server: Server) -> Check:
    return clusters_check(server.children, server.records, server.keeping.twins)


async def _leaves_unsaid(server: Server, cluster: Cluster) -> None:
    """Before it said anything of the authority that it was given."""
    cluster.leave()
    server.others.remove(cluster)
    await server.until(lambda: not server.lists.current.lists)
    (missing,) = server.records.missing()
    assert missing.startswith(f"{EAST} is away and has not said what its issuing authority ")


async def test_what_a_cluster_said_goes_when_its_authorities_have_ended(parent_disk: Disk) -> None:
    async with parent_disk.server() as server:
        east = Cluster(EAST)
        east.keys = {"east-1": new_key().public_key()}
        await east.join(server, lifetime=HOUR)
        await server.until(lambda: len(server.lists.current.lists) == 3)
        east.leave()
        server.clock.leap(3600)
        await server.until(lambda: "east-1" not in server.authorities.bundle().jwt_authorities)
        assert len(server.lists.current.lists) == 2
        assert server.children.clusters() == []


async def test_clusters_are_shown_with_those_below_them_and_measured(server: Server, east: Cluster) -> None:
    """What a child says of itself can be shown and is bounded, whatever it is."""
    east.own.name, east.own.phase = "spiffe://a.test/somebody/else", "observe\x1b[2J"
    for number in range(20):
        east.own.holders.add(name=f"node-{number}/1", words="x" * 1000)
    east.below = [rotation_pb2.ClusterView(name="spiffe://a.test/lab", proxies=2, below=1)]
    assert east.session is not None
    await server.until(lambda: len(server.children.clusters()) == 2)
    own, below = server.children.clusters()
    assert (own.name, own.connected, own.phase, own.below) == (str(EAST), True, "observe [2J", 0)
    assert [len(each.words) for each in own.holders] == [300] * 10
    assert (below.name, below.proxies, below.below) == ("spiffe://a.test/lab", 2, 2)
    assert server.rotator.view().clusters == [own, below]

    east.is_silent = True
    await east.sign()
    await server.until(lambda: server.children.without(is_jwt=False) != [])
    registry = CollectorRegistry()
    registry.register(ClusterCollector(server.children))
    samples = [sample for family in registry.collect() for sample in family.samples]
    assert {(each.name, *each.labels.values()): each.value for each in samples} == {
        ("citadel_child_clusters", "connected"): 1,
        ("citadel_child_clusters", "away"): 0,
        ("citadel_child_clusters_behind", "x509"): 1,
        ("citadel_child_clusters_behind", "jwt"): 0,
    }
    assert _check(server) == Check("child clusters", Health.GOOD, "1 of 1 connected")
    east.leave()
    assert _check(server).health is Health.DEGRADED


async def test_in_the_middle_the_root_above_signs_and_only_what_is_known_there_too_is_known_everywhere(
    parent_disk: Disk, clock: FakeClock
) -> None:
    parent_disk.parent = above = FakeParent(clock)
    middle = Server(parent_disk, Fate())
    try:
        await above.say()
        await middle.start()
        await above.hear(middle)
        east = Cluster(EAST)
        east.keys = {"east-1": new_key().public_key()}
        await east.join(middle)
        assert east.issuers[0].root == above.active.certificate
        await middle.until(lambda: any(each.crl == east.issuers[0].crl() for each in east.trust.revocations.lists))
        above.everybody_knows = False
        await above.hear(middle)
        for _ in range(10):
            await middle.turn()
        assert middle.knowing.known(is_jwt=False) == middle.knowing.version(is_jwt=False)
        assert middle.knowing.known(is_jwt=True) == middle.knowing.version(is_jwt=True)
        told, newest = east.everywhere, east.trust.versions  # of an older version it may have been told before
        assert told.x509 != newest.x509
        assert told.jwt != newest.jwt
        above.everybody_knows = True
        await above.say()
        await middle.until(lambda: east.everywhere == east.trust.versions)
    finally:
        await middle.stop()


async def test_what_an_older_stream_of_a_cluster_says_counts_no_longer(server: Server, east: Cluster) -> None:
    server.others.remove(east)
    older = east.session
    assert older is not None
    east.connect()
    await server.keeping.take(older, pb.ClusterReport())
    await server.turn()
    said = server.records.said(EAST)
    assert said is not None
    assert said.issuers == {east.issuers[0].certificate}


async def test_clusters_hear_of_a_root_together_with_its_bundle(server: Server) -> None:
    async with server.authorities.changing_upstream():
        await server.authorities._upstream.prepare("new")
        assert len(server.in_force.message().roots) == 1
    assert len(server.in_force.message().roots) == 2


async def test_a_report_of_the_mesh_alone_is_not_read_anew(server: Server, east: Cluster) -> None:
    """Many come each second while a rotation waits for one; what is wrong in one is told once."""
    server.others.remove(east)
    assert east.session is not None
    report = east.report()
    report.issuers.add(certificate=b"foreign")
    for number in range(5):
        report.own.proxies_acknowledged = number
        await server.keeping.take(east.session, report)
        assert server.children.clusters()[0].proxies_acknowledged == number
    assert server.tally.refused == {Reason.DOWNSTREAM_REFUSED: 1}
    await east.sign()  # it may have this on record, or not: what it names now says so
    await server.clock.advance(1)
    await server.keeping.take(east.session, report)
    assert server.tally.refused == {Reason.DOWNSTREAM_REFUSED: 2}
    await server.turn()
    assert [each.certificate for each in server.records.in_use(EAST)] == [east.issuers[0].certificate]
