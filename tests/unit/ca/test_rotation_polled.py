"""Other trust domains look for the bundle by themselves: an observation lasts until they must have seen it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from ca.rotation.model import Phase, RotationKind
from ca.rotation.steering import Wish
from tests.stores import MigratedStores
from tests.unit.ca.rotating import HOUR, Disk, Server, nodes
from tests.unit.ca.values import ADMINISTRATOR

MINUTE = timedelta(minutes=1)
MARGIN = 2.0  # seconds
ROOT, JWT, ISSUER = RotationKind.ROOT, RotationKind.JWT, RotationKind.ISSUER

pytestmark = [pytest.mark.invariant(3), pytest.mark.spec("FED-37", "FED-38")]


@pytest.fixture
def store_url(tmp_path: Path, migrated_stores: MigratedStores) -> str:
    return migrated_stores.sqlite(tmp_path / "store.db")


@pytest.fixture
def disk(disk: Disk) -> Disk:
    disk.polled_every = 5 * MINUTE
    return disk


async def with_mesh(server: Server) -> Server:
    for node in nodes():
        node.has_keys_for_tokens = True
        await server.join(node)
    await server.turn()
    return server


@pytest.mark.parametrize("kind", [ROOT, JWT])
async def test_what_is_new_signs_nothing_before_others_could_look_three_times(disk: Disk, kind: RotationKind) -> None:
    async with disk.server() as server:
        await with_mesh(server)
        await server.begin(kind)
        await server.until(lambda: "federation" in server.holders())
        begun = server.clock.monotonic()
        server.clock.jump(HOUR)
        server.clock.leap(895)
        await server.turn()
        assert server.rotator.current is not None
        assert server.rotator.current.phase is Phase.OBSERVE
        assert server.holders().keys() == {"federation"}
        await server.phase(Phase.ACTIVATE)
        assert 895 + MARGIN <= server.clock.monotonic() - begun < 910


async def test_an_issuing_authority_is_nothing_that_others_look_for(disk: Disk) -> None:
    async with disk.server() as server:
        await with_mesh(server)
        begun = server.clock.monotonic()
        await server.begin(ISSUER)
        await server.phase(Phase.ACTIVATE)
        assert server.clock.monotonic() - begun < 30


async def test_the_time_begins_anew_with_another_process(disk: Disk) -> None:
    async with disk.server() as server:
        await with_mesh(server)
        await server.begin(ROOT)
        await server.until(lambda: "federation" in server.holders())
        server.clock.leap(800)
    async with disk.server() as server:
        await with_mesh(server)
        await server.until(lambda: "federation" in server.holders())
        server.clock.leap(800)
        await server.turn()
        await server.turn()
        assert server.rotator.current is not None
        assert server.rotator.current.phase is Phase.OBSERVE


async def test_a_person_may_go_on_without_them(disk: Disk) -> None:
    async with disk.server() as server:
        await with_mesh(server)
        await server.begin(ROOT)
        await server.until(lambda: "federation" in server.holders())
        begun = server.clock.monotonic()
        await server.steering.skip("federation", why="there are none", by=ADMINISTRATOR)
        await server.phase(Phase.ACTIVATE)
        assert server.clock.monotonic() - begun < 30


@pytest.mark.parametrize("kind", [ROOT, JWT])
async def test_nobody_waits_for_them_in_an_emergency(disk: Disk, kind: RotationKind) -> None:
    async with disk.server() as server:
        await with_mesh(server)
        begun = server.clock.monotonic()
        await server.begin(kind, deadline=timedelta(seconds=30))
        await server.phase(Phase.ACTIVATE)
        assert server.clock.monotonic() - begun < 30


@pytest.mark.parametrize(("kind", "waits"), [(ROOT, True), (JWT, True), (ISSUER, False)])
async def test_a_plan_says_how_long_it_takes_for_them(disk: Disk, kind: RotationKind, waits: bool) -> None:
    async with disk.server() as server:
        await with_mesh(server)
        plan = await server.steering.plan(Wish(kind=kind))
        assert (plan.takes >= 15 * MINUTE) is waits
        assert ("federation" in {holder.name for holder in plan.holders}) is waits


async def test_where_no_bundle_is_served_nobody_is_waited_for(disk: Disk) -> None:
    disk.polled_every = None
    async with disk.server() as server:
        await with_mesh(server)
        begun = server.clock.monotonic()
        await server.begin(ROOT)
        await server.phase(Phase.ACTIVATE)
        assert server.clock.monotonic() - begun < 30
