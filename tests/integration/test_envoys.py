"""The main job with real processes: a server, an agent and Envoys."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator

import pytest

from citadel._wire import admin_pb2, types_pb2
from cli.demo import envoy
from cli.demo.bookinfo import Productpage
from cli.demo.intruder import attempt
from tests.integration.meshes import LiveMesh, live_mesh, until

pytestmark = [pytest.mark.integration, pytest.mark.alone]

LEAF_SECONDS = 8
AS_ROOT = os.geteuid() == 0


@pytest.fixture
async def mesh() -> AsyncIterator[LiveMesh]:
    async with live_mesh(leaf_seconds=LEAF_SECONDS, as_root=AS_ROOT) as running:
        yield running


@pytest.mark.spec("X509-36")
async def test_each_side_sees_the_others_spiffe_id_and_whoever_has_none_of_ours_is_refused(mesh: LiveMesh) -> None:
    page = Productpage(sidecar_port=mesh.plan.productpage.listen_port)
    assert await page.render() == (str(mesh.plan.productpage.spiffe_id), str(mesh.plan.reviews.spiffe_id))
    await page.close()
    for sidecar in (mesh.plan.productpage, mesh.plan.reviews):
        assert await mesh.envoy(sidecar).stat("ssl.versions.TLSv1.3") > 0
        assert await mesh.envoy(sidecar).stat("ssl.session_reused") == 0
    for claims in (None, mesh.plan.productpage.spiffe_id):
        assert await attempt(mesh.plan.reviews.listen_port, claims=claims) != ""


async def test_sidecars_of_one_user_are_told_apart_by_path() -> None:
    async with live_mesh(leaf_seconds=60, as_root=False) as mesh:
        page = Productpage(sidecar_port=mesh.plan.productpage.listen_port)
        assert await page.render() == (str(mesh.plan.productpage.spiffe_id), str(mesh.plan.reviews.spiffe_id))
        await page.close()
        assert await mesh.envoy(mesh.plan.stranger).certificate() == {}


@pytest.mark.invariant(5)
async def test_leaves_rotate_under_load_with_no_failed_request(mesh: LiveMesh) -> None:
    await mesh.sightings()
    async with mesh.under_load() as tally:
        await until("each side rotated 3 times", lambda: _rotated(mesh, 3), seconds=40)
    assert tally.done > 200
    assert not tally.failures


@pytest.mark.invariant(5, 12)
async def test_the_server_is_killed_and_restarted_under_load() -> None:
    # A busy machine may take several seconds to start a server, and with less than those left a leaf would just end.
    async with live_mesh(leaf_seconds=2 * LEAF_SECONDS, as_root=AS_ROOT) as mesh:
        await mesh.sightings()
        async with mesh.under_load() as tally:
            await mesh.mesh.children["server"].kill()
            await asyncio.sleep(LEAF_SECONDS / 4)
            await mesh.mesh.launch("server")
            await until("each side rotated, and once more", lambda: _rotated(mesh, 2), seconds=60)
        assert not tally.failures


@pytest.mark.invariant(5, 12)
async def test_the_agent_is_killed_and_restarted_under_load(mesh: LiveMesh) -> None:
    (mesh.plan.folder / "agent" / "join").unlink()  # it must come back without a token
    await mesh.sightings()
    async with mesh.under_load() as tally:
        await mesh.mesh.children["agent"].kill()
        await mesh.mesh.launch("agent")
        await until("each side rotated 3 times", lambda: _rotated(mesh, 3), seconds=40)
    assert not tally.failures
    assert await mesh.envoy(mesh.plan.reviews).stat("update_rejected") == 0


@pytest.mark.invariant(5)
async def test_a_restarted_envoy_gets_the_current_certificate_while_the_server_is_away() -> None:
    async with live_mesh(leaf_seconds=60, as_root=AS_ROOT) as mesh:
        reviews = mesh.plan.reviews
        serial = await mesh.serial_of(reviews)
        await mesh.mesh.children["server"].kill()
        await mesh.mesh.children["reviews"].kill()
        await mesh.mesh.launch_sidecar(reviews)
        await until("reviews serves again", mesh.envoy(reviews).is_live, seconds=5)
        assert await mesh.serial_of(reviews) == serial


async def test_a_caller_without_an_entry_is_answered_as_soon_as_one_appears(mesh: LiveMesh) -> None:
    stranger = mesh.plan.stranger
    assert not await mesh.envoy(stranger).is_live()
    await until("its streams are reported as waiting", lambda: _waits(mesh, stranger.name), seconds=5)
    entry = types_pb2.Entry(
        spiffe_id=str(stranger.spiffe_id), parent_id=str(mesh.plan.agent_id), selectors=[str(stranger.selector)]
    )
    async with mesh.admin() as admin:
        begun = time.monotonic()
        await admin.CreateEntry(admin_pb2.CreateEntryRequest(entry=entry))
    await until("it serves", mesh.envoy(stranger).is_live, seconds=5)
    assert time.monotonic() - begun < 2.0
    assert (await mesh.envoy(stranger).certificate())["uri"] == str(stranger.spiffe_id)


@pytest.mark.invariant(8)
async def test_a_deleted_entry_ends_with_its_certificate_and_disturbs_nobody(mesh: LiveMesh) -> None:
    plan = mesh.plan
    entry = await mesh.entry_of(plan.productpage)
    async with mesh.admin() as admin:
        await admin.DeleteEntry(admin_pb2.DeleteEntryRequest(id=entry.id))
    before = await mesh.serial_of(plan.productpage)
    page = Productpage(sidecar_port=plan.productpage.listen_port)
    assert await page.render()  # Envoy keeps what it has, until it ends
    await page.close()
    reviews = await mesh.serial_of(plan.reviews)
    await until("reviews was renewed", lambda: _differs(mesh, reviews), seconds=LEAF_SECONDS)
    await asyncio.sleep(LEAF_SECONDS / 2)
    assert await mesh.serial_of(plan.productpage) == before
    connected = await mesh.streams()
    assert {stream.node_id for stream in connected} >= {"productpage", "reviews"}, "its streams stay open"


async def test_what_a_proxy_refuses_is_told_in_its_own_words_and_not_sent_again(mesh: LiveMesh) -> None:
    reviews = mesh.plan.reviews
    bootstrap = envoy.server_bootstrap(mesh.plan, reviews)
    chain = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]
    context = chain["transport_socket"]["typed_config"]["common_tls_context"]
    # A bundle where a certificate belongs: Envoy must refuse it.
    context["tls_certificate_sds_secret_configs"][0]["name"] = "ROOTCA"
    context["combined_validation_context"]["validation_context_sds_secret_config"]["name"] = "default"
    await mesh.mesh.children["reviews"].kill()
    envoy.write_bootstrap(reviews, bootstrap)
    await mesh.mesh.launch_sidecar(reviews, rewrite=False)

    async def is_refused() -> bool:
        return any(
            resource.state == types_pb2.ResourceReport.REFUSED and resource.refusal
            for stream in await mesh.streams()
            if stream.node_id == "reviews"
            for resource in stream.resources
        )

    await until("the refusal is known to the server", is_refused, seconds=10)
    rejected = await mesh.envoy(reviews).stat("update_rejected")
    await asyncio.sleep(1.0)
    assert await mesh.envoy(reviews).stat("update_rejected") <= rejected + 2, "no busy loop"


async def _rotated(mesh: LiveMesh, times: int) -> bool:
    return all(seen.rotations >= times for seen in (await mesh.sightings()).values())


async def _differs(mesh: LiveMesh, serial: str) -> bool:
    return await mesh.serial_of(mesh.plan.reviews) != serial


async def _waits(mesh: LiveMesh, node: str) -> bool:
    resources = [r for stream in await mesh.streams() if stream.node_id == node for r in stream.resources]
    return bool(resources) and all(r.state == types_pb2.ResourceReport.WAITING for r in resources)
