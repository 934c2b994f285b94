"""Foreign bundles at real Envoys: calls cross in both directions, and stop within a second when trust is withdrawn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from citadel._wire import admin_pb2, types_pb2
from citadel._wire import federation_pb2 as pb
from citadel._wire.admin_pb2_grpc import AdminStub
from citadel._wire.federation_pb2_grpc import BundlesStub
from citadel.spiffe import TrustDomain
from tests.clusters.bootstraps import Bootstrap
from tests.clusters.cluster import Cluster
from tests.clusters.proxy import Proxy
from tests.clusters.recipes import INBOUND_PORT
from tests.clusters.running import Wanted, clusters
from tests.integration.meshes import until

pytestmark = pytest.mark.integration

EAST, WEST = TrustDomain("east.example"), TrustDomain("west.example")
EMPTY = types_pb2.Bundle(trust_domain="west.example", json=b'{"keys":[]}')
_INNER_PORTS = iter(range(9450, 9460))


@dataclass(frozen=True)
class Crossing:
    """Proxies that call what is in the other cluster."""

    crossing: tuple[Proxy, ...]

    async def crosses(self) -> bool:
        return all([await proxy.works() for proxy in self.crossing])


@dataclass(frozen=True)
class Mesh:
    """In east `web` and `named`, which call `west`, and `near`, which calls `web` of its own trust domain."""

    east: Cluster
    at_west: Cluster
    web: Proxy
    named: Proxy  # asks for the bundle of west by its name, and not for ALL
    near: Proxy  # federates with nobody
    west: Proxy

    @property
    def abroad(self) -> Crossing:
        return Crossing((self.web, self.named, self.west))


def sidecar(here: Cluster, *, callers: list[str], service: tuple[Cluster, str], listens: bool) -> Bootstrap:
    made, (there, pinned) = Bootstrap("sidecar.yaml"), service
    inner = (here.place.inner, next(_INNER_PORTS))
    made.listen("inbound", (here.place.address, INBOUND_PORT) if listens else inner)
    made.point("service", (there.place.address, INBOUND_PORT))
    made.pin_callers(callers)
    made.pin_service(pinned)
    return made


@asynccontextmanager
async def running() -> AsyncIterator[Mesh]:
    wanted = [Wanted(name="east", trust_domain=EAST), Wanted(name="west", trust_domain=WEST)]
    async with clusters(wanted) as (east, west):
        web, named, near, theirs = (
            *(str(EAST.member(name)) for name in ("web", "named", "near")),
            str(WEST.member("web")),
        )
        by_name = sidecar(east, callers=[theirs], service=(west, theirs), listens=False)
        by_name.trust_service_by(str(WEST.id))
        proxies = await asyncio.gather(
            east.workload(
                EAST.member("web"),
                sidecar(east, callers=[theirs, near], service=(west, theirs), listens=True),
                federates_with=[WEST.name],
            ),
            east.workload(EAST.member("named"), by_name, federates_with=[WEST.name]),
            east.workload(EAST.member("near"), sidecar(east, callers=[web], service=(east, web), listens=False)),
            west.workload(
                WEST.member("web"),
                sidecar(west, callers=[web, named], service=(east, web), listens=True),
                federates_with=[EAST.name],
            ),
        )
        yield Mesh(east, west, *proxies)


@asynccontextmanager
async def undisturbed(proxy: Proxy) -> AsyncIterator[None]:
    """Whatever happens inside, every call of this one goes through."""
    failures: list[str] = []
    stop = asyncio.Event()

    async def call() -> None:
        while not stop.is_set():
            if refusal := await proxy.refusal():
                failures.append(refusal)
            await asyncio.sleep(0.02)

    calling = asyncio.create_task(call())
    try:
        yield
    finally:
        stop.set()
        await calling
    assert not failures


async def own_bundle(cluster: Cluster) -> types_pb2.Bundle:
    async with cluster.admin_channel() as channel:
        bundle: types_pb2.Bundle = await AdminStub(channel).GetOwnBundle(admin_pb2.GetOwnBundleRequest())
    return bundle


async def set_bundle(cluster: Cluster, bundle: types_pb2.Bundle) -> None:
    async with cluster.admin_channel() as channel:
        await BundlesStub(channel).SetBundle(pb.SetBundleRequest(bundle=bundle, why="a test"))


async def seconds_until_refused(mesh: Crossing, act: Callable[[], Awaitable[None]]) -> float:
    """From the beginning of the act to the first moment when nothing crosses any more."""
    begun = time.monotonic()
    await act()
    async with asyncio.timeout(10):
        while any([await proxy.works() for proxy in mesh.crossing]):
            pass
    return time.monotonic() - begun


@pytest.mark.spec("FED-34", "FED-36", "FED-40", "FED-41")
@pytest.mark.invariant(7)
@pytest.mark.invariant(9)
async def test_trust_that_is_given_by_hand_lasts_until_it_is_withdrawn(
    record_property: Callable[[str, object], None],
) -> None:
    async with running() as mesh:
        assert not any([await proxy.works() for proxy in mesh.abroad.crossing]), (
            "proxies serve, and trust nobody of the other"
        )
        of_east, of_west = await own_bundle(mesh.east), await own_bundle(mesh.at_west)
        async with undisturbed(mesh.near):
            await set_bundle(mesh.east, of_west)
            assert not await mesh.web.works(), "trust is one-way: west trusts nobody yet"
            await set_bundle(mesh.at_west, of_east)
            await until("calls cross in both directions", mesh.abroad.crosses, seconds=10)
            for caller, service in ((mesh.web, mesh.west), (mesh.named, mesh.west), (mesh.west, mesh.web)):
                assert await caller.call() == (str(caller.spiffe_id), str(service.spiffe_id))
            for word, withdraw in (
                ("an empty bundle", lambda: set_bundle(mesh.east, EMPTY)),
                ("the end of it", lambda: _dissociate(mesh.east)),
            ):
                seconds = await seconds_until_refused(mesh.abroad, withdraw)
                record_property(word, round(seconds * 1000))
                assert seconds < 1.0
                for _ in range(10):
                    assert not any([await proxy.works() for proxy in mesh.abroad.crossing]), (
                        "proxies serve, and trust nobody of the other"
                    )
                await set_bundle(mesh.east, of_west)
                if word == "an empty bundle":
                    await until("calls cross again", mesh.abroad.crosses, seconds=10)
            assert not any([await proxy.works() for proxy in mesh.abroad.crossing]), "no entry federates any more"
        for proxy in (*mesh.abroad.crossing, mesh.near):
            assert await proxy.admin.stat("update_rejected") == 0


async def _dissociate(cluster: Cluster) -> None:
    async with cluster.admin_channel() as channel:
        request = pb.DeleteBundleRequest(trust_domain=WEST.name, why="a test", mode="dissociate")
        assert (await BundlesStub(channel).DeleteBundle(request)).entries == 2


@pytest.mark.invariant(7)
async def test_clusters_of_one_trust_domain_with_roots_of_their_own_trust_each_other_on_purpose_alone(
    record_property: Callable[[str, object], None], tmp_path: Path
) -> None:
    one = TrustDomain("one.example")
    async with clusters([Wanted(name=name, trust_domain=one) for name in ("east", "west")]) as (east, west):
        names = {cluster.name: str(one.member(cluster.name)) for cluster in (east, west)}
        proxies = await asyncio.gather(
            *(
                here.workload(
                    one.member(here.name),
                    sidecar(here, callers=[names[there.name]], service=(there, names[there.name]), listens=True),
                )
                for here, there in ((east, west), (west, east))
            )
        )
        mesh = Crossing(tuple(proxies))
        assert not any([await proxy.works() for proxy in proxies])
        for here, there in ((east, west), (west, east)):
            (file := tmp_path / f"{there.name}.json").write_text(
                await there.cli("bundle", "show", "--own", "--format", "spiffe")
            )
            code, said = await here.cli_result("bundle", "set", one.name, str(file), "--reason", "a test")
            assert (code, "federation_own_domain" in said) == (3, True), "not without being on purpose"
            said = await here.cli("bundle", "set", "--own-domain", str(file), "--reason", "a test")
            assert "it can speak for every identity here" in said
        await until("calls cross in both directions", mesh.crosses, seconds=10)
        assert await proxies[0].call() == (names["east"], names["west"])
        assert "lists of other clusters" in (await east.status()).revocation_trouble
        code, said = await east.cli_result("trust", "verify", str(east.admin_socket), str(west.admin_socket))
        assert code == 0, said

        async def give_up() -> None:
            async with east.admin_channel() as channel:
                await BundlesStub(channel).DeleteBundle(pb.DeleteBundleRequest(own_domain=True, why="a test"))

        seconds = await seconds_until_refused(mesh, give_up)
        record_property("milliseconds", round(seconds * 1000))
        assert seconds < 1.0
