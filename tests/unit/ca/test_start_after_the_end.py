"""A server that is started when nothing on record can sign any more takes what can, and serves."""

from __future__ import annotations

from pathlib import Path

import pytest

from ca.authority.model import AuthorityKind, AuthorityState
from ca.rotation.model import Phase, RotationKind
from ca.store.database import Database
from tests.certificates import NOW
from tests.clock import FakeClock
from tests.folders import a_root, an_issuer, contents, put
from tests.stores import MigratedStores
from tests.unit.ca.following import FromFolder
from tests.unit.ca.parent import FakeParent
from tests.unit.ca.rotating import DAY, HOUR, Crash, Disk, Fate, Server, nodes

pytestmark = pytest.mark.invariant(12)

ROOT = RotationKind.ROOT
FIRST_ROOT, SECOND_ROOT = a_root("first"), a_root("second")
FIRST = an_issuer(FIRST_ROOT, "first issuer", lifetime=DAY)
SECOND = an_issuer(SECOND_ROOT, "second issuer", not_before=NOW - DAY)


@pytest.fixture
def store_url(tmp_path: Path, migrated_stores: MigratedStores) -> str:
    return migrated_stores.sqlite(tmp_path / "store.db")


@pytest.fixture
def disk(database: Database, tmp_path: Path, clock: FakeClock) -> Disk:
    return Disk(database, tmp_path / "keys", clock, root_lifetime=8 * DAY)


async def serves(server: Server) -> None:
    """Whoever comes has certificates under the one root that signs, and a rotation goes through."""
    for node in nodes():
        await server.join(node)
    root = server.active(AuthorityKind.ROOT)
    assert root.not_after > server.clock.now()
    assert server.authorities.issuing().authority.parent_id == root.id
    await server.turn()


async def ended(disk: Disk) -> None:
    """A server ran, and is started no more before all that it had has ended."""
    async with disk.server() as server:
        for node in nodes():
            await server.join(node)
        await server.turn()
    disk.clock.leap((8 * DAY + HOUR).total_seconds())


async def test_its_own_root_ended_while_it_was_down(disk: Disk) -> None:
    await ended(disk)
    async with disk.server() as server:
        await serves(server)
        (root,) = server.authorities.bundle().x509_authorities
        assert root == server.active(AuthorityKind.ROOT).certificate
        assert server.lists.current.lists
    assert [each.split()[0] for each in await disk.acts() if each.startswith("root.")] == ["root.replace"]
    async with disk.server() as server:
        assert server.authorities.bundle().x509_authorities == (root,)


@pytest.mark.parametrize("crash_after", range(1, 12))
async def test_killed_after_any_write_of_such_a_start_the_next_one_serves(disk: Disk, crash_after: int) -> None:
    await ended(disk)
    try:
        async with disk.server(Fate(crash_after=crash_after)):
            pass
    except Crash:
        pass
    async with disk.server() as server:
        await serves(server)
        roots = [each for each in server.authorities.authorities() if each.kind is AuthorityKind.ROOT]
        assert [each.state for each in roots] == [AuthorityState.ACTIVE]


async def test_the_root_of_a_rotation_that_was_under_way_is_taken(disk: Disk) -> None:
    async with disk.server() as server:
        one, _ = [await server.join(node) for node in nodes()]
        disk.clock.leap((2 * DAY).total_seconds())
        one.is_silent = True
        rotation = await server.begin(ROOT)
        await server.phase(Phase.OBSERVE)
        await server.turn()
    disk.clock.leap((6 * DAY + HOUR).total_seconds())
    async with disk.server() as server:
        assert server.active(AuthorityKind.ROOT).id == rotation.new_id
        issuer = server.authorities.issuing().authority
        assert issuer.created_at < disk.clock.now() - DAY, "many have its list already"
        await serves(server)
        assert (await server.over()).phase is Phase.DONE
        assert server.active(AuthorityKind.ROOT).id == rotation.new_id


async def test_the_folder_was_exchanged_after_the_end(disk: Disk, tmp_path: Path) -> None:
    disk.parent = FromFolder(put(tmp_path / "cacerts", contents(FIRST, FIRST_ROOT)))
    await ended(disk)
    put(tmp_path / "cacerts", contents(SECOND, SECOND_ROOT))
    async with disk.server() as server:
        await serves(server)
        assert server.authorities.issuing().authority.certificate == SECOND.certificate
    assert any(each.startswith("root.replace") for each in await disk.acts())


@pytest.mark.parametrize("moves_to", ["self", "files"])
async def test_a_child_whose_parent_is_lost_for_good_is_moved(disk: Disk, tmp_path: Path, moves_to: str) -> None:
    disk.parent = parent = FakeParent(disk.clock)
    server = Server(disk, Fate())
    await parent.say()
    await server.start()
    await server.stop()
    disk.clock.leap((8 * DAY).total_seconds())
    folder = put(tmp_path / "cacerts", contents(SECOND, SECOND_ROOT))
    disk.parent = FromFolder(folder) if moves_to == "files" else None
    async with disk.server() as server:
        await serves(server)
        assert parent.active.certificate in server.authorities.bundle().x509_authorities, "until a rotation ends it"


async def test_one_that_has_no_parent_any_more_rotates_to_a_root_of_its_own_when_its_authority_is_due(
    disk: Disk,
) -> None:
    disk.issuer_at, disk.parent = 0.5, (parent := FakeParent(disk.clock))
    server = Server(disk, Fate())
    await parent.say()
    await server.start()
    await server.stop()
    disk.parent = None
    async with disk.server() as server:
        for node in nodes():
            await server.join(node)
        await server.turn(5)
        assert server.active(AuthorityKind.ROOT).certificate == parent.active.certificate
        disk.clock.leap((4 * DAY).total_seconds())
        for node in server.nodes:
            await node.join(server)
        await server.until(lambda: bool(server.active(AuthorityKind.ROOT).key_id))
        done = await server.over()
        assert (done.kind, done.phase) == (ROOT, Phase.DONE)
        assert server.authorities.issuing().authority.parent_id == done.new_id


async def test_what_can_sign_still_stays(disk: Disk, tmp_path: Path) -> None:
    disk.parent = parent = FakeParent(disk.clock)
    server = Server(disk, Fate())
    await parent.say()
    await server.start()
    signs = server.authorities.issuing().authority
    await server.stop()
    disk.parent = FromFolder(put(tmp_path / "cacerts", contents(SECOND, SECOND_ROOT)))
    async with disk.server() as server:
        assert server.authorities.issuing().authority.certificate == signs.certificate
    assert not any(each.startswith("root.replace") for each in await disk.acts())
