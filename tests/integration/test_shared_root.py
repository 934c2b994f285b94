"""A parent and two children, each in a network of its own, with real Envoys, while requests cross between them."""

from __future__ import annotations

import os
import signal
from datetime import timedelta

import pytest

from citadel._wire import rotation_pb2
from citadel._wire.rotation_pb2_grpc import RotationsStub
from citadel.bundle import TrustBundle
from citadel.wire import to_duration
from tests.clusters.cluster import Cluster
from tests.clusters.proxy import Proxy
from tests.clusters.shared_root import MESH, SharedRoot, crossing, rotated, shared_root
from tests.integration.meshes import until

pytestmark = [pytest.mark.integration, pytest.mark.pairs]


async def test_roots_and_authorities_rotate_while_requests_cross_between_clusters() -> None:
    async with shared_root() as under:
        web = await under.workloads()
        for proxy in web:
            await until(f"{proxy.spiffe_id} reaches the other cluster", proxy.works, seconds=20)
        async with crossing(*web) as tally:
            await _root_rotates(under)
            await _issuer_rotates(under.children[0])
        assert tally.failures == {}
        assert tally.done > 50


@pytest.mark.soak  # by steps: test_child_clusters, tests/unit/ca/test_child_rotation.py
async def test_a_stopped_proxy_holds_up_the_other_clusters_and_an_emergency_waits_for_nobody() -> None:
    async with shared_root() as under:
        web = await under.workloads()
        for proxy in web:
            await until(f"{proxy.spiffe_id} reaches the other cluster", proxy.works, seconds=20)
        await _a_proxy_that_is_stopped_holds_up_the_other_clusters(under, web[1])
        await _an_emergency_reaches_every_cluster(under, web)


@pytest.mark.soak
async def test_a_root_rotates_over_two_levels_while_requests_cross_between_them() -> None:
    async with shared_root(("east", "far"), below={"far": "east"}) as under:
        web = await under.workloads()
        for proxy in web:
            await until(f"{proxy.spiffe_id} reaches the other cluster", proxy.works, seconds=20)
        [east, far] = under.children
        before = await _roots(under.parent)
        async with crossing(*web) as tally:
            views = await rotated(under.parent, "root")
            await _issuer_rotates(far)
            await _issuer_rotates(east)
        assert tally.failures == {}
        assert tally.done > 50
        assert (views[-1].rotation.phase, views[-1].rotation.alarm) == ("done", "")
        depths = {cluster.name: cluster.below for view in views for cluster in view.clusters}
        assert depths == {under.name_of(east): 0, under.name_of(far): 1}
        for cluster in (under.parent, east, far):
            assert not before & await _roots(cluster)


async def _root_rotates(under: SharedRoot) -> None:
    before = await _roots(under.parent)
    views = await rotated(under.parent, "root")
    assert views[-1].rotation.phase == "done"
    assert views[-1].rotation.alarm == ""
    seen = {cluster.name for view in views for cluster in view.clusters}
    assert seen == {under.name_of(child) for child in under.children}
    waited_for = {holder.name for view in views for holder in view.holders}
    assert seen <= waited_for
    for cluster in (under.parent, *under.children):
        assert not before & await _roots(cluster)


async def _issuer_rotates(cluster: Cluster) -> None:
    before = await _issuers(cluster)
    views = await rotated(cluster, "issuer")
    assert (views[-1].rotation.phase, views[-1].rotation.alarm) == ("done", "")
    assert not before & await _issuers(cluster)


async def _a_proxy_that_is_stopped_holds_up_the_other_clusters(under: SharedRoot, proxy: Proxy) -> None:
    [east, west] = under.children
    pid = west.children[proxy.sidecar.name].pid
    await _held_up(east, "issuer", pid, by="parent", words="not every proxy of the other clusters")
    await _held_up(under.parent, "root", pid, by=under.name_of(west), words="1 of 1 proxies")


async def _held_up(cluster: Cluster, kind: str, pid: int, *, by: str, words: str) -> None:
    """While this process is stopped the rotation only observes, and says whom it waits for; then it goes on."""
    async with cluster.admin_channel() as channel:
        rotations = RotationsStub(channel)
        os.kill(pid, signal.SIGSTOP)
        try:
            await rotations.StartRotation(rotation_pb2.StartRotationRequest(kind=kind))
            await _is_waited_for(rotations, by, words)
            view = await rotations.GetRotation(rotation_pb2.GetRotationRequest())
            assert view.rotation.phase == "observe"
        finally:
            os.kill(pid, signal.SIGCONT)
        views = [view async for view in rotations.WatchRotation(rotation_pb2.WatchRotationRequest())]
    assert (views[-1].rotation.phase, views[-1].rotation.alarm) == ("done", "")


async def _an_emergency_reaches_every_cluster(under: SharedRoot, web: tuple[Proxy, Proxy]) -> None:
    before = await _roots(under.parent)
    views = await rotated(under.parent, "root", emergency=True, deadline=to_duration(timedelta(seconds=2)))
    assert views[-1].rotation.phase == "done"
    for child in under.children:

        async def has_left(child: Cluster = child) -> bool:
            return not before & await _roots(child)

        await until(f"{child.name} trusts the new root alone", has_left, seconds=10)
        async with child.admin_channel() as channel:
            [last] = (await RotationsStub(channel).ListRotations(rotation_pb2.ListRotationsRequest(limit=1))).rotations
        assert (last.kind, last.emergency, last.started_by) == ("issuer", True, "server")
    for proxy in web:
        await until(f"{proxy.spiffe_id} reaches the other cluster again", proxy.works, seconds=10)


async def _is_waited_for(rotations: RotationsStub, name: str, words: str) -> None:
    """It is the only one, and this is said of it."""

    async def is_said() -> bool:
        view = await rotations.GetRotation(rotation_pb2.GetRotationRequest())
        return [holder.name for holder in view.holders] == [name] and words in view.holders[0].words

    await until(f"{name} is waited for, and {words!r} is said of it", is_said, seconds=20)


async def _roots(cluster: Cluster) -> set[bytes]:
    bundle = TrustBundle.from_json(MESH, (await cluster.cli("bundle", "show", "--format", "spiffe")).encode())
    return {each.tbs_certificate_bytes for each in bundle.x509_authorities}


async def _issuers(cluster: Cluster) -> set[str]:
    return {each.id for each in (await cluster.status()).authorities if each.kind == "issuer"}
