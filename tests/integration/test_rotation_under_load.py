"""A rotation of the root that no request notices, with real Envoys: new connections and kept ones beside each other."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Final

import pytest

from cli.demo.load import Tally
from tests.integration.meshes import KEPT_CLUSTER, LiveMesh, live_mesh, until

pytestmark = [pytest.mark.integration, pytest.mark.pairs]

PACE: Final = 200.0  # requests a second of each of the two loads, where the machine can


@pytest.fixture
async def mesh() -> AsyncIterator[LiveMesh]:
    async with live_mesh(leaf_seconds=60, as_root=os.geteuid() == 0, pace=PACE) as running:
        await running.open_kept_way()
        yield running


@pytest.mark.invariant(3, 4, 5)
async def test_no_request_fails_while_the_root_is_rotated(mesh: LiveMesh) -> None:
    await rotate_under_load(mesh, least=1000)


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_no_request_fails_in_ten_rotations_of_the_root_in_a_row(mesh: LiveMesh) -> None:
    for _ in range(10):
        await rotate_under_load(mesh, least=2000)


async def rotate_under_load(mesh: LiveMesh, *, least: int) -> None:
    """One rotation from its start to its end, amid a load of at least so many requests."""
    reviews, productpage = mesh.envoy(mesh.plan.reviews), mesh.envoy(mesh.plan.productpage)
    handshakes, before = await reviews.stat("ssl.handshake"), await reviews.roots()
    async with mesh.under_both_loads() as loads:
        fresh, kept = loads
        connections = await productpage.stat(f"{KEPT_CLUSTER}.upstream_cx_total")
        window = timedelta(seconds=least / await rate_of(*loads))  # which SVIDs are renewed somewhere in
        begun, first = time.monotonic(), fresh.done + kept.done
        view = await mesh.rotate_root(window=window)
        took, during = time.monotonic() - begun, fresh.done + kept.done - first
        # What is connected anew from now on has the new root alone.
        await until("more requests were made", lambda: _have_done(max(least, first + during + 50), *loads), seconds=30)
    print(  # noqa: T201 - the figures are what a long run is for
        f"\n{fresh.done} requests on new connections and {kept.done} on kept ones, {during} of them in the {took:.1f} s"
        f" of the rotation: {fresh.failed + kept.failed} failed",
        end="",
    )
    assert fresh.failures + kept.failures == Counter()
    assert during > least / 10, "the load was there all the time"
    assert (view.rotation.phase, view.rotation.alarm) == ("done", "")
    for admin in (reviews, productpage):
        now = await admin.roots()
        assert now.own == now.trusted, "it hangs on the new root, and trusts it alone"
        assert len(now.own) == 1
        assert not now.own & before.own
        assert await admin.stat("ssl.session_reused") == 0
    assert await reviews.stat("ssl.handshake") - handshakes >= fresh.done, "a new connection for each"
    assert await productpage.stat(f"{KEPT_CLUSTER}.upstream_cx_total") - connections < 10, "kept connections were kept"


async def rate_of(*loads: Tally) -> float:
    """Requests a second, as they are answered now."""
    await until("each load is on its way", lambda: _have_each_done(10, *loads), seconds=20)
    begun, first = time.monotonic(), sum(load.done for load in loads)
    await until("they have made more", lambda: _have_done(first + 100, *loads), seconds=20)
    return (sum(load.done for load in loads) - first) / (time.monotonic() - begun)


async def _have_each_done(number: int, *loads: Tally) -> bool:
    return all(load.done >= number for load in loads)


async def _have_done(number: int, *loads: Tally) -> bool:
    return sum(load.done for load in loads) >= number
