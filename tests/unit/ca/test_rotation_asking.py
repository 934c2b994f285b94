"""Clients that ask by themselves are told of a new root only then: it signs nothing before all of them have asked."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from ca.issuance.lifetime import LifetimePolicy
from ca.issuance.press import IssuedSvid
from ca.issuance.proven import ProvenRequest
from ca.rotation.asking import NAME
from ca.rotation.model import Phase, RotationKind
from ca.rotation.steering import Wish
from citadel.reserved import k8s_door_id
from citadel.spiffe import SpiffeId
from tests.csrs import csr
from tests.stores import MigratedStores
from tests.unit.ca.rotating import DAY, HOUR, Disk, Server, nodes
from tests.unit.ca.values import A_TEST, ADMINISTRATOR

ROOT, JWT, ISSUER = RotationKind.ROOT, RotationKind.JWT, RotationKind.ISSUER
MARGIN = 2.0  # seconds
DOOR: Final = k8s_door_id(A_TEST, "main", "istio")

pytestmark = pytest.mark.invariant(3)


@pytest.fixture
def store_url(tmp_path: Path, migrated_stores: MigratedStores) -> str:
    return migrated_stores.sqlite(tmp_path / "store.db")


async def with_mesh(server: Server) -> Server:
    for node in nodes():
        await server.join(node)
    await server.turn()
    return server


async def handed_out(server: Server, lifetime: timedelta) -> IssuedSvid:
    """A proxy of Istio has a certificate, and goes away with it."""
    policy = LifetimePolicy(default=HOUR, own=HOUR, cap=7 * DAY, backdate=timedelta(0))
    request = ProvenRequest(
        spiffe_id=SpiffeId.parse("spiffe://a.test/ns/shop/sa/web"),
        key=csr(),
        policy=policy,
        requested_by=DOOR,
        charged_to="pod",
        lifetime=lifetime,
    )
    (svid,) = await server.issuer.issue_proven([request])
    assert isinstance(svid, IssuedSvid)
    return svid


def phase(server: Server) -> Phase:
    assert server.rotator.current is not None
    return server.rotator.current.phase


async def test_a_new_root_signs_nothing_before_the_last_certificate_from_before_has_ended(disk: Disk) -> None:
    async with disk.server() as server:
        await with_mesh(server)
        await handed_out(server, 20 * HOUR)
        await handed_out(server, 2 * HOUR)
        begun = server.clock.monotonic()
        await server.begin(ROOT)
        await server.until(lambda: server.holders().keys() == {NAME})
        (until,) = (holder.until for holder, _ in server.rotator.view().holders)
        assert until is not None
        await handed_out(server, 3 * DAY)  # who asks now is told of it, and is not waited for
        server.clock.leap(20 * 3600 - 60)
        await server.turn()
        assert (phase(server), server.holders().keys()) == (Phase.OBSERVE, {NAME})
        await server.phase(Phase.ACTIVATE)
        assert 20 * 3600 + MARGIN - 1 <= server.clock.monotonic() - begun < 20 * 3600 + 10


async def test_it_is_kept_over_restarts_and_neither_shorter_nor_longer_by_them(disk: Disk) -> None:
    async with disk.server() as server:
        await with_mesh(server)
        await handed_out(server, 10 * HOUR)
        begun = server.clock.monotonic()
        await server.begin(ROOT)
        await server.until(lambda: server.holders().keys() == {NAME})
        await handed_out(server, 3 * DAY)
    for _ in range(2):
        async with disk.server() as server:
            await with_mesh(server)
            await server.until(lambda: server.holders().keys() == {NAME})
            server.clock.leap(3 * 3600)
    async with disk.server() as server:
        await with_mesh(server)
        await server.until(lambda: server.holders().keys() == {NAME})
        server.clock.leap(4 * 3600 - 100)
        await server.phase(Phase.ACTIVATE)
        assert 10 * 3600 <= server.clock.monotonic() - begun < 10 * 3600 + 300


async def test_a_root_that_was_published_right_before_a_crash_is_looked_up_at_the_next_start(disk: Disk) -> None:
    async with disk.server() as server:
        await with_mesh(server)
        await handed_out(server, 10 * HOUR)
        server.asking.wake = lambda: None  # type: ignore[method-assign] # it dies before it hears
        await server.authorities.prepare_root("f" * 32)
    async with disk.server() as server:
        assert not server.asking.left(server.clock.now())[0].is_mere_time
        await server.until(lambda: server.asking.left(server.clock.now())[0].is_mere_time)
        assert server.asking.left(server.clock.now())[0].until is not None


@pytest.mark.parametrize("kind", [ISSUER, JWT])
async def test_nothing_else_waits_for_them(disk: Disk, kind: RotationKind) -> None:
    async with disk.server() as server:
        await with_mesh(server)
        await handed_out(server, 20 * HOUR)
        begun = server.clock.monotonic()
        await server.begin(kind)
        await server.phase(Phase.ACTIVATE)
        assert server.clock.monotonic() - begun < 30


async def test_a_person_may_skip_them_by_name(disk: Disk) -> None:
    async with disk.server() as server:
        await with_mesh(server)
        await handed_out(server, 20 * HOUR)
        begun = server.clock.monotonic()
        await server.begin(ROOT)
        await server.until(lambda: NAME in server.holders())
        await server.steering.skip(NAME, why="none of them matters", by=ADMINISTRATOR)
        await server.phase(Phase.ACTIVATE)
        assert server.clock.monotonic() - begun < 60


async def test_an_emergency_waits_for_nobody(disk: Disk) -> None:
    async with disk.server() as server:
        await with_mesh(server)
        await handed_out(server, 20 * HOUR)
        begun = server.clock.monotonic()
        await server.begin(ROOT, deadline=timedelta(seconds=30))
        await server.over()
        assert server.clock.monotonic() - begun < 120


async def test_near_the_end_of_what_signs_it_goes_on_with_an_alarm(disk: Disk) -> None:
    disk.issuer_lifetime = 2 * DAY  # 12 h before its end nobody is waited for any more
    async with disk.server() as server:
        await with_mesh(server)
        await handed_out(server, 40 * HOUR)
        await server.begin(ROOT)
        await server.until(lambda: server.holders().keys() == {NAME})
        server.clock.leap(36 * 3600 + 60)
        await server.phase(Phase.ACTIVATE)
        assert server.rotator.current is not None
        assert NAME in server.rotator.current.alarm


async def test_a_plan_says_how_long_it_would_take(disk: Disk) -> None:
    async with disk.server() as server:
        await with_mesh(server)
        await server.until(lambda: not server.asking.left(server.clock.now()))
        assert (await server.steering.plan(Wish(kind=ROOT))).takes < HOUR
        await handed_out(server, 20 * HOUR)
        plan = await server.steering.plan(Wish(kind=ROOT))
        assert [each.name for each in plan.holders] == [NAME]
        assert 20 * HOUR <= plan.takes < 21 * HOUR
        assert not (await server.steering.plan(Wish(kind=ISSUER))).holders


async def test_a_cluster_says_that_all_know_a_root_only_once_they_have_asked(disk: Disk) -> None:
    disk.is_parent = True
    async with disk.server() as server:
        await with_mesh(server)
        await handed_out(server, 10 * HOUR)
        await server.authorities.prepare_root("f" * 32)
        with server.knowing.asked():
            await server.until(lambda: [each.name for each in server.knowing.holders(is_jwt=False)] == [NAME])
            assert server.knowing.known(is_jwt=False) != server.knowing.version(is_jwt=False)
            server.clock.leap(10 * 3600)
            await server.until(lambda: server.knowing.known(is_jwt=False) == server.knowing.version(is_jwt=False))


@pytest.mark.invariant(4)
async def test_the_old_root_stays_until_their_certificates_have_ended(disk: Disk) -> None:
    async with disk.server() as server:
        await with_mesh(server)
        svid = await handed_out(server, 5 * HOUR)
        await server.begin(ROOT, skip=frozenset({NAME}))
        await server.phase(Phase.DRAIN)
        await server.until(lambda: server.holders().keys() == {str(DOOR)})
        server.clock.leap(5 * 3600 - 120)
        await server.turn()
        assert phase(server) is Phase.DRAIN
        await server.phase(Phase.RETIRE)
        assert server.clock.now() >= svid.not_after
