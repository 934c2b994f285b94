"""A rotation of the root that a proxy holds up: named, waited for, skipped, paused, and undone, with real Envoys."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import pytest

from citadel._wire import admin_pb2, records_pb2, rotation_pb2, types_pb2
from citadel._wire.records_pb2_grpc import RecordsStub
from citadel._wire.rotation_pb2_grpc import RotationsStub
from citadel.selector import Selector
from citadel.spiffe import SpiffeId
from cli.demo.plan import LEAST_MARGIN, TRUST_DOMAIN
from tests.agents import SdsStream, sds_stream_at
from tests.integration.meshes import LiveMesh, live_mesh, until

pytestmark = pytest.mark.integration

NAMED_WITHIN: Final = 5.0  # seconds
GOES_ON_WITHIN: Final = 2.0 + LEAST_MARGIN.total_seconds()
ROOT: Final = rotation_pb2.StartRotationRequest(kind="root", window={}, why="yearly")
VIEW: Final = rotation_pb2.GetRotationRequest()


@pytest.fixture
async def mesh() -> AsyncIterator[LiveMesh]:
    """With three Envoys that have certificates: two that the load goes through, and one that can be stopped."""
    async with live_mesh(leaf_seconds=60, as_root=os.geteuid() == 0) as running:
        stranger = running.plan.stranger
        await register(running, stranger.spiffe_id, stranger.selector)
        await until("the third Envoy serves", running.envoy(stranger).is_live, seconds=10)
        yield running


@pytest.fixture
async def rotations(mesh: LiveMesh) -> AsyncIterator[RotationsStub]:
    async with mesh.rotations() as stub:
        yield stub


async def register(mesh: LiveMesh, spiffe_id: SpiffeId, selector: Selector) -> None:
    entry = types_pb2.Entry(spiffe_id=str(spiffe_id), parent_id=str(mesh.plan.agent_id), selectors=[str(selector)])
    async with mesh.admin() as admin:
        await admin.CreateEntry(admin_pb2.CreateEntryRequest(entry=entry))


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop the process until the block ends; without that it could not be ended either."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def proxy(mesh: LiveMesh, *, refusal: str = "") -> AsyncIterator[None]:
    """An SDS client of this process, which takes the bundle that there is, and refuses all later ones if it is to."""

    async def answer(stream: SdsStream) -> None:
        await stream.answer(await stream.next())
        while True:
            await stream.answer(await stream.call.read(), refusal=refusal)

    async with sds_stream_at(mesh.plan.agent_socket, "ROOTCA") as stream:
        answering = asyncio.create_task(answer(stream))
        try:
            yield
        finally:
            answering.cancel()


async def named(rotations: RotationsStub, words: str) -> rotation_pb2.Holder:
    """The one that the rotation waits for, as soon as it is named in these words."""
    holders: list[rotation_pb2.Holder] = []

    async def is_named() -> bool:
        holders[:] = (await rotations.GetRotation(VIEW)).holders
        return [holder.words for holder in holders] == [words]

    try:
        await until(f"it is named as {words!r}, and nobody else", is_named, seconds=NAMED_WITHIN)
    except AssertionError as error:
        raise AssertionError(f"{error}; waited for: {holders}") from None
    return holders[0]


async def has_left_observe(rotations: RotationsStub) -> bool:
    view = await rotations.GetRotation(VIEW)
    return view.rotation.phase not in ("prepare", "observe")


async def stays_in_observe(rotations: RotationsStub) -> None:
    """It would long have gone on if it were not held up: for three margins it does not."""
    end = time.monotonic() + 3 * LEAST_MARGIN.total_seconds()
    while time.monotonic() < end:
        assert (await rotations.GetRotation(VIEW)).rotation.phase == "observe"


async def last_view(rotations: RotationsStub) -> rotation_pb2.RotationView:
    return [view async for view in rotations.WatchRotation(rotation_pb2.WatchRotationRequest())][-1]


@pytest.mark.invariant(3)
async def test_a_stopped_envoy_is_named_waited_for_and_heard_when_it_goes_on(
    mesh: LiveMesh, rotations: RotationsStub
) -> None:
    pid = mesh.mesh.children["stranger"].pid
    async with mesh.under_load() as tally:
        with stopped(pid):
            await rotations.StartRotation(ROOT)
            holder = await named(rotations, f"pid {pid} (stranger) has not answered ROOTCA")
            assert holder.name in {
                f"node-1/{each.stream_id}" for each in await mesh.streams() if each.node_id == "stranger"
            }
            await stays_in_observe(rotations)
            old = await mesh.envoy(mesh.plan.reviews).roots()
            assert len(old.own) == 1
            assert len(old.trusted) == 2, "the new root is trusted, and has signed nothing"
        await until("the rotation goes on", lambda: has_left_observe(rotations), seconds=GOES_ON_WITHIN)
        view = await last_view(rotations)
    assert (view.rotation.phase, view.rotation.alarm) == ("done", "")
    assert tally.done > 0
    assert not tally.failures
    for sidecar in mesh.plan.sidecars:
        roots = await mesh.envoy(sidecar).roots()
        assert roots.own == roots.trusted == old.trusted - old.own


@pytest.mark.invariant(3)
async def test_a_proxy_that_refuses_the_new_bundle_is_named_in_its_own_words_until_it_takes_it(
    mesh: LiveMesh, rotations: RotationsStub
) -> None:
    here = Selector("unix", f"path:{Path(sys.executable).resolve()}")
    await register(mesh, TRUST_DOMAIN.member("bookinfo", "ratings"), here)
    refusal = "Failed to load trusted CA certificates from <inline>"
    async with mesh.under_load() as tally:
        async with proxy(mesh, refusal=refusal):
            await until("it has taken the bundle", lambda: _hold_the_present_bundle(mesh, streams=4), seconds=5)
            await rotations.StartRotation(ROOT)
            await named(rotations, f"pid {os.getpid()} refused ROOTCA: {refusal}")
            await stays_in_observe(rotations)
        async with proxy(mesh):  # started anew, as whoever repairs a proxy does
            await until("the rotation goes on", lambda: has_left_observe(rotations), seconds=GOES_ON_WITHIN)
            view = await last_view(rotations)
    assert (view.rotation.phase, view.rotation.alarm) == ("done", "")
    assert not tally.failures


@pytest.mark.invariant(3, 10)
async def test_a_person_may_go_on_without_it_by_name_which_is_audited(mesh: LiveMesh, rotations: RotationsStub) -> None:
    pid, serial = mesh.mesh.children["stranger"].pid, await mesh.serial_of(mesh.plan.stranger)
    async with mesh.under_load() as tally:
        with stopped(pid):
            await rotations.StartRotation(ROOT)
            # Envoy has a stream for each secret: one for the bundle, and one for the certificate under the old root.
            bundle = await named(rotations, f"pid {pid} (stranger) has not answered ROOTCA")
            await rotations.SkipHolder(rotation_pb2.SkipHolderRequest(name=bundle.name, why="it burned"))
            own = await named(rotations, f"holds {serial}: pid {pid} (stranger) has not answered default")
            await rotations.SkipHolder(rotation_pb2.SkipHolderRequest(name=own.name, why="and that one"))
            view = await last_view(rotations)
    assert (view.rotation.phase, list(view.rotation.skipped)) == ("done", sorted([bundle.name, own.name]))
    assert not tally.failures
    async with mesh.mesh.admin_channel() as channel:
        acts = (await RecordsStub(channel).ListActs(records_pb2.ListActsRequest(what="rotation.skip"))).acts
    assert [(act.target, act.detail, act.why) for act in acts] == [
        (view.rotation.id, own.name, "and that one"),
        (view.rotation.id, bundle.name, "it burned"),
    ]


@pytest.mark.invariant(3, 11)
async def test_it_can_be_paused_and_undone_as_long_as_the_new_root_has_signed_nothing(
    mesh: LiveMesh, rotations: RotationsStub
) -> None:
    before, status = await mesh.envoy(mesh.plan.reviews).roots(), await mesh.mesh.status()
    pid = mesh.mesh.children["stranger"].pid
    async with mesh.under_load() as tally:
        with stopped(pid):
            await rotations.StartRotation(ROOT)
            await named(rotations, f"pid {pid} (stranger) has not answered ROOTCA")
            await rotations.PauseRotation(rotation_pb2.PauseRotationRequest(why="lunch"))
        await stays_in_observe(rotations)  # though all have acknowledged it by now
        await rotations.AbortRotation(rotation_pb2.AbortRotationRequest(why="the wrong day"))
        view = await last_view(rotations)
        assert view.rotation.phase == "aborted"
        await until("every proxy holds the old bundle", lambda: _hold_the_present_bundle(mesh), seconds=5)
    assert not tally.failures
    after = await mesh.mesh.status()
    assert after.bundle_sequence == status.bundle_sequence + 2, "one change there, one change back"
    assert [each.id for each in after.authorities] == [each.id for each in status.authorities]
    for sidecar in mesh.plan.sidecars:
        assert (await mesh.envoy(sidecar).roots()) == before


async def _hold_the_present_bundle(mesh: LiveMesh, *, streams: int = 3) -> bool:
    status = await mesh.mesh.status()
    held = [
        resource.held_bundle_sequence
        for agent in status.agents
        for stream in agent.streams
        for resource in stream.resources
        if resource.trust_domain
    ]
    return len(held) == streams and set(held) == {status.bundle_sequence}
