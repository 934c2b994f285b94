"""A parent that was restored from a backup: what it signed for child clusters since is not on record."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import delete, insert

from ca.authority.certificates import build_issuer
from ca.authority.model import AuthorityKind
from ca.rotation.model import Phase, RotationKind
from ca.store.schema import downstream_authorities, downstream_reports, restores
from tests.children import ChildIssuer
from tests.csrs import new_key
from tests.stores import MigratedStores
from tests.unit.ca.cluster import EAST, WEST, Cluster
from tests.unit.ca.rotating import DAY, HOUR, Disk, Server
from tests.unit.ca.values import A_TEST, ADMINISTRATOR, NODE_1, entry


@pytest.fixture
def store_url(tmp_path: Path, migrated_stores: MigratedStores) -> str:
    return migrated_stores.sqlite(tmp_path / "store.db")


@pytest.fixture
def parent_disk(disk: Disk) -> Disk:
    disk.is_parent = True
    return disk


async def _joined(server: Server, cluster: Cluster) -> None:
    await cluster.join(server)
    await server.until(lambda: any(each.crl == cluster.issuers[0].crl() for each in cluster.trust.revocations.lists))


async def _forgets(disk: Disk, begin: datetime) -> None:
    """The parent is restored from a backup of that time: what it signed for a child since is not on record."""
    async with disk.database.transaction() as connection:
        await connection.execute(delete(downstream_authorities))
        await connection.execute(delete(downstream_reports))
        row = {"made_at": begin, "restored_at": disk.clock.now(), "digest": ""}
        await connection.execute(insert(restores).values(row))


def _entitle(server: Server, cluster: Cluster) -> None:
    made = entry(cluster.spiffe_id.path, NODE_1, downstream=True)
    server.directory.put(made, revision=server.directory.revision + 1)


@pytest.mark.invariant(4)
async def test_a_restored_parent_takes_up_what_a_child_proves_that_it_was_given(parent_disk: Disk) -> None:
    begin, east = parent_disk.clock.now(), Cluster(EAST)
    parent_disk.clock.leap(3600)
    async with parent_disk.server() as server:
        await _joined(server, east)
        stranger = new_key()
        certificate = build_issuer(
            trust_domain=A_TEST,
            public_key=stranger.public_key(),
            root=server.active(AuthorityKind.ROOT).certificate,
            root_key=stranger,  # and not the root's
            not_before=parent_disk.clock.now(),
            not_after=parent_disk.clock.now() + DAY,
        )
        east.leave()
    await _forgets(parent_disk, begin)
    forged = ChildIssuer(stranger, (certificate,), east.issuers[0].root)
    async with parent_disk.server() as server:
        _entitle(server, east)
        for _ in range(3):
            await server.turn()
        assert server.records.lists() is None, "nobody knows what it was given"
        assert not server.lists.current.lists
        await server.begin(RotationKind.ROOT)
        await server.phase(Phase.OBSERVE)
        for _ in range(5):
            await server.turn()
        assert str(EAST) in server.holders()
        await server.steering.abort(why="", by=ADMINISTRATOR)
        await server.over()
        east.issuers.append(forged)
        await east.join(server)
        await server.until(lambda: bool(server.lists.current.lists))
        known = {each.issuer for each in server.lists.current.lists}
        assert east.issuers[0].certificate in known
        assert certificate not in known
        assert any(each.startswith("downstream.recover") for each in await parent_disk.acts())
    async with parent_disk.server() as server:
        assert [each.certificate for each in server.records.signed(EAST)] == [east.issuers[0].certificate]
        assert not server.records.unheard()


@pytest.mark.invariant(4)
async def test_a_child_that_does_not_come_back_is_waited_for_until_all_from_before_a_restore_has_ended(
    parent_disk: Disk,
) -> None:
    begin = parent_disk.clock.now()
    parent_disk.clock.leap(3600)
    await _forgets(parent_disk, begin)
    async with parent_disk.server() as server:
        _entitle(server, Cluster(WEST))
        await server.turn()
        await server.turn()
        (holder,) = server.children.depending([server.active(AuthorityKind.ROOT).id], server.clock.now())
        assert (holder.name, holder.until) == (str(WEST), begin + HOUR + parent_disk.issuer_lifetime)
        server.clock.leap(parent_disk.issuer_lifetime.total_seconds())
        assert not server.children.depending([server.active(AuthorityKind.ROOT).id], server.clock.now())
        assert server.records.lists() == []


async def test_what_began_in_no_such_time_is_not_taken_up(parent_disk: Disk) -> None:
    east = Cluster(EAST)
    async with parent_disk.server() as server:
        await _joined(server, east)
        east.leave()
    parent_disk.clock.leap(3600)
    await _forgets(parent_disk, parent_disk.clock.now())
    async with parent_disk.server() as server:
        await east.join(server)
        await server.until(lambda: not server.records.unheard() and server.records.entitled is not None)
        assert not server.records.signed(EAST)
