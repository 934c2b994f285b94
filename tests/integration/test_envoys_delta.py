"""The same main job with Envoys that ask incrementally, and under other names."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from citadel._wire import admin_pb2, types_pb2
from cli.demo import envoy
from cli.demo.bookinfo import Productpage
from cli.demo.plan import Sidecar
from tests.integration.meshes import LiveMesh, live_mesh, until

pytestmark = [pytest.mark.integration, pytest.mark.alone]

LEAF_SECONDS = 8
REPORT = types_pb2.ResourceReport


@pytest.fixture
async def mesh() -> AsyncIterator[LiveMesh]:
    async with live_mesh(leaf_seconds=LEAF_SECONDS, as_root=os.geteuid() == 0) as running:
        # One asks for the short names, the other for the exact ID and all bundles.
        await ask_by_delta(running, running.plan.reviews)
        own = str(running.plan.productpage.spiffe_id)
        await ask_by_delta(running, running.plan.productpage, {"default": own, "ROOTCA": "ALL"})
        yield running


async def ask_by_delta(mesh: LiveMesh, sidecar: Sidecar, names: dict[str, str] | None = None) -> None:
    """Start a sidecar anew that asks incrementally, with `names` in place of others."""
    is_server = sidecar is mesh.plan.reviews
    bootstrap = (envoy.server_bootstrap if is_server else envoy.client_bootstrap)(mesh.plan, sidecar)
    assert _change(bootstrap, names or {}) > 0
    await mesh.mesh.children[sidecar.name].kill()
    envoy.write_bootstrap(sidecar, bootstrap)
    await mesh.mesh.launch_sidecar(sidecar, rewrite=False)
    await until(f"{sidecar.name} serves", mesh.envoy(sidecar).is_live, seconds=10)


def _change(part: Any, names: dict[str, str]) -> int:
    if isinstance(part, list):
        return sum(_change(each, names) for each in part)
    if not isinstance(part, dict):
        return 0
    changed = 0
    if part.get("api_type") == "GRPC":
        part["api_type"] = "DELTA_GRPC"
        changed = 1
    if "sds_config" in part:
        part["name"] = names.get(part["name"], part["name"])
    return changed + sum(_change(each, names) for each in part.values())


async def _rotated(mesh: LiveMesh, times: int) -> bool:
    return all(seen.rotations >= times for seen in (await mesh.sightings()).values())


async def _resources(mesh: LiveMesh, node: str) -> list[types_pb2.ResourceReport]:
    return [
        resource
        for stream in await mesh.streams()
        if stream.node_id == node and stream.protocol == "sds-delta"
        for resource in stream.resources
    ]


@pytest.mark.invariant(5, 12)
async def test_requests_cross_while_leaves_rotate_and_the_agent_is_killed_and_comes_back(mesh: LiveMesh) -> None:
    page = Productpage(sidecar_port=mesh.plan.productpage.listen_port)
    assert await page.render() == (str(mesh.plan.productpage.spiffe_id), str(mesh.plan.reviews.spiffe_id))
    await page.close()
    await mesh.sightings()
    async with mesh.under_load() as tally:
        await until("each side rotated twice", lambda: _rotated(mesh, 2), seconds=30)
        await mesh.mesh.children["agent"].kill()
        await mesh.mesh.launch("agent")
        await until("each side rotated twice more", lambda: _rotated(mesh, 4), seconds=40)
    assert tally.done > 100
    assert not tally.failures
    for sidecar in (mesh.plan.productpage, mesh.plan.reviews):
        assert await mesh.envoy(sidecar).stat("update_rejected") == 0

    async def is_told() -> bool:
        reports = [*await _resources(mesh, "reviews"), *await _resources(mesh, "productpage")]
        return len(reports) >= 4 and all(
            each.state == REPORT.ACKNOWLEDGED and each.version == each.held_version for each in reports
        )

    await until("the server knows what each proxy holds", is_told, seconds=5)
    svid = next(each for each in await _resources(mesh, "reviews") if each.spiffe_id)
    assert svid.held_serial == svid.serial
    names = {each.name for each in await _resources(mesh, "productpage")}
    assert names == {str(mesh.plan.productpage.spiffe_id), "ALL"}


@pytest.mark.invariant(8)
async def test_a_deleted_entry_leaves_the_proxy_what_it_has_and_disturbs_nobody(mesh: LiveMesh) -> None:
    plan = mesh.plan
    entry = await mesh.entry_of(plan.productpage)
    serial, of_reviews = await mesh.serial_of(plan.productpage), await mesh.serial_of(plan.reviews)
    async with mesh.admin() as admin:
        await admin.DeleteEntry(admin_pb2.DeleteEntryRequest(id=entry.id))

    async def reviews_was_renewed() -> bool:
        return await mesh.serial_of(plan.reviews) != of_reviews

    page = Productpage(sidecar_port=plan.productpage.listen_port)
    assert await page.render(), "an Envoy ignores that an ordinary secret was removed"
    await page.close()
    await until("reviews was renewed", reviews_was_renewed, seconds=LEAF_SECONDS)
    assert await mesh.serial_of(plan.productpage) == serial
    (svid,) = [each for each in await _resources(mesh, "productpage") if each.held_serial]
    assert int(svid.held_serial, 16) == int(serial, 16), "what it still holds is still known"


async def test_what_a_proxy_refuses_is_told_in_its_own_words_with_what_it_keeps(mesh: LiveMesh) -> None:
    # A bundle where a certificate belongs, and the other way round: Envoy must refuse both.
    await mesh.mesh.children["reviews"].kill()
    bootstrap = envoy.server_bootstrap(mesh.plan, mesh.plan.reviews)
    _change(bootstrap, {"default": "ROOTCA", "ROOTCA": "default"})
    envoy.write_bootstrap(mesh.plan.reviews, bootstrap)
    await mesh.mesh.launch_sidecar(mesh.plan.reviews, rewrite=False)

    async def is_refused() -> bool:
        found = await _resources(mesh, "reviews")
        return any(each.state == REPORT.REFUSED and each.refusal and not each.held_version for each in found)

    await until("the refusal is known to the server", is_refused, seconds=10)
