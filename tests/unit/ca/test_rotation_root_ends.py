"""Whatever rotation is paused or held up: the root that signs is rotated before it ends, and issuers go on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from ca.authority.model import AuthorityKind
from ca.rotation.model import Phase, Rotation, RotationKind
from ca.store.database import Database
from ca.store.rotations import SqlRotations
from tests.clock import FakeClock
from tests.stores import MigratedStores
from tests.unit.ca.records import row
from tests.unit.ca.rotating import DAY, HOUR, Disk, PlainLedger, Server, nodes
from tests.unit.ca.values import A_TEST, ADMINISTRATOR

pytestmark = pytest.mark.invariant(3, 5)

ROOT, ISSUER, SVID, JWT = RotationKind.ROOT, RotationKind.ISSUER, RotationKind.SVID, RotationKind.JWT
SECOND = timedelta(seconds=1)
NODE_3 = A_TEST.member("citadel", "agent", "node-3")  # away


@pytest.fixture
def store_url(tmp_path: Path, migrated_stores: MigratedStores) -> str:
    return migrated_stores.sqlite(tmp_path / "store.db")


@pytest.fixture
def disk(database: Database, tmp_path: Path, clock: FakeClock) -> Disk:
    return Disk(database, tmp_path / "keys", clock, root_lifetime=8 * DAY)


@pytest.fixture
async def server(disk: Disk) -> AsyncIterator[Server]:
    """With a mesh of two nodes that has settled. A leaf lives a day, so a root is due two days before its end."""
    async with disk.server() as server:
        for node in nodes():
            await server.join(node)
        await server.turn()
        yield server


async def passes(server: Server, until_left: timedelta) -> None:
    """Time, until so much of the root's life is left; what agents hold is renewed meanwhile."""
    root = server.active(AuthorityKind.ROOT)
    server.clock.leap((root.not_after - server.clock.now() - until_left).total_seconds())
    for node in server.nodes:
        if not node.hangs:
            await node.join(server)
    for _ in range(25):
        await server.turn()


async def held_up(server: Server, kind: RotationKind, phase: Phase) -> Rotation:
    """A rotation that does not come out of this phase for a day, begun when the root is not due yet."""
    await passes(server, 2 * DAY + HOUR)
    await server.authorities.replace_issuer()  # so that its own end, which is that of the root, does not press
    first, end = server.nodes[0], server.clock.now() + DAY
    await server.tokens.reserve(server.tokens.signing(), end)
    if phase is Phase.DRAIN:  # somebody is away who holds what lives so long
        issuer_id = server.authorities.issuing().authority.id
        lent = row(NODE_3, issuer_id=issuer_id, issued_at=server.clock.now(), not_after=end)
        await PlainLedger(server.disk.database).append([lent])
    first.is_silent, first.hangs = phase is Phase.OBSERVE, kind is SVID
    rotation = await server.begin(kind)
    await server.until(lambda: server.rotator.running is not None and server.rotator.running.phase is phase)
    await passes(server, 36 * HOUR + 5 * SECOND)
    assert server.rotator.running is not None
    assert (server.rotator.running.id, server.rotator.running.phase) == (rotation.id, phase)
    return rotation


async def recorded(disk: Disk, rotation: Rotation) -> Rotation:
    return next(each for each in await SqlRotations(database=disk.database).newest(20) if each.id == rotation.id)


@pytest.mark.parametrize("kind", [ISSUER, SVID, JWT])
async def test_any_pause_ends_when_the_root_is_due(server: Server, disk: Disk, kind: RotationKind) -> None:
    root = server.active(AuthorityKind.ROOT)
    rotation = await server.begin(kind)
    await server.steering.pause(why="holidays", by=ADMINISTRATOR)
    await passes(server, 2 * DAY + HOUR)
    assert server.rotator.running is not None
    assert server.rotator.running.paused
    await passes(server, 2 * DAY)
    await server.until(lambda: server.active(AuthorityKind.ROOT).id != root.id)
    assert (await recorded(disk, rotation)).phase is Phase.DONE, "it came to its end by itself"
    assert "rotation.resume" in await disk.acts()


@pytest.mark.parametrize(("kind", "phase"), [(ISSUER, Phase.DRAIN), (SVID, Phase.RENEW), (JWT, Phase.DRAIN)])
async def test_one_that_is_held_up_and_cannot_be_undone_is_superseded(
    server: Server, disk: Disk, kind: RotationKind, phase: Phase
) -> None:
    root, rotation = server.active(AuthorityKind.ROOT), await held_up(server, kind, phase)
    await server.until(lambda: server.rotator.running is not None and server.rotator.running.kind is ROOT)
    server.nodes[0].hangs = False
    await server.until(lambda: server.active(AuthorityKind.ROOT).id != root.id)
    superseded = await recorded(disk, rotation)
    by = await SqlRotations(database=disk.database).newest(1)
    assert superseded.phase is Phase.SUPERSEDED
    assert f"superseded in {phase.value} by the rotation {by[0].id}: the root that signs nears" in superseded.alarm
    assert [act.split()[0] for act in (await disk.acts())].count("rotation.supersede") == 1


async def test_one_that_is_held_up_and_can_be_undone_is_undone(server: Server, disk: Disk) -> None:
    root, rotation = server.active(AuthorityKind.ROOT), await held_up(server, ISSUER, Phase.OBSERVE)
    server.nodes[0].is_silent = False
    await server.until(lambda: server.active(AuthorityKind.ROOT).id != root.id)
    assert (await recorded(disk, rotation)).phase is Phase.ABORTED
    assert rotation.new_id not in {each.id for each in server.authorities.issuers()}
    assert "rotation.abort" in await disk.acts()


@pytest.mark.parametrize("kind", [ISSUER, SVID, JWT])
async def test_a_root_that_ended_while_the_machine_was_suspended_is_rotated_all_the_same(
    server: Server, kind: RotationKind
) -> None:
    root = server.active(AuthorityKind.ROOT)
    await server.begin(kind)
    await server.steering.pause(why="holidays", by=ADMINISTRATOR)
    for node in server.nodes:
        node.leave()
    server.clock.leap((root.not_after - server.clock.now() + HOUR).total_seconds())
    await server.until(lambda: server.active(AuthorityKind.ISSUER).parent_id != root.id)
    await server.turn()
    assert server.authorities.issuing().authority.not_after > server.clock.now() + DAY


async def test_the_root_is_rotated_at_the_last_moment_however_late_its_share_is_set(disk: Disk) -> None:
    disk.root_at = 0.999
    async with disk.server() as server:
        root = server.active(AuthorityKind.ROOT)
        await passes(server, 2 * DAY + HOUR)
        assert server.rotator.running is None
        await passes(server, 2 * DAY)
        await server.until(lambda: server.active(AuthorityKind.ROOT).id != root.id)


async def test_an_issuer_that_was_rotated_a_moment_ago_holds_up_no_root(disk: Disk) -> None:
    """By itself nothing is rotated twice within an eighth of an issuer's life, here a day and 18 hours."""
    disk.issuer_lifetime, disk.root_lifetime, disk.issuer_at = 14 * DAY, 15 * DAY, 12.5 / 14
    async with disk.server() as server:
        root = server.active(AuthorityKind.ROOT)
        await passes(server, 2 * DAY + HOUR)
        await server.until(lambda: server.rotator.current is not None)
        assert (await server.over()).kind is ISSUER
        await passes(server, 2 * DAY)
        await server.until(lambda: server.active(AuthorityKind.ROOT).id != root.id)


async def test_an_issuer_is_replaced_in_time_and_with_its_list_while_tokens_are_waited_for(disk: Disk) -> None:
    disk.root_lifetime = 365 * DAY
    async with disk.server() as server:
        old = server.authorities.issuing().authority
        server.clock.leap((old.not_after - server.clock.now() - 13 * HOUR).total_seconds())
        await server.tokens.reserve(server.tokens.signing(), server.clock.now() + DAY)
        await server.begin(JWT)
        await server.phase(Phase.DRAIN)
        server.clock.leap(HOUR.total_seconds())
        await server.until(lambda: server.authorities.issuing().authority.id != old.id)
        assert server.rotator.running is not None
        assert server.rotator.running.kind is JWT, "it goes on"
        new = server.authorities.issuing().authority
        assert new.subject_key_id in {each.issuer_key_id for each in server.lists.current.lists}
        assert "issuer.replace" in await disk.acts()
