"""The lease in SQL, by the database's clock, and the fence that it puts around every transaction."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Final

from sqlalchemy import Connection, insert, inspect, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.lease.model import Holder, Lease, Sight
from ca.store.database import Database
from ca.store.schema import lease as table
from ca.store.types import database_now
from citadel.errors import Reason, Unavailable

# The revision that makes the table. Who has no lease yet makes this much and no more: the rest is its owner's to make.
_FIRST_REVISION: Final = "0002"
_ROW: Final = "server"


class SqlLeaseStore:
    """Fulfils `ca.lease.ports.LeaseStore`. Its database has no fence: it is what the fence asks about."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def prepare(self) -> None:
        async with self._database.reading() as connection:
            ready = await connection.run_sync(lambda plain: inspect(plain).has_table(table.name))
        if not ready:
            await self._database.migrate(revision=_FIRST_REVISION)

    async def look(self) -> Sight:
        async with self._database.reading() as connection:
            return await _look(connection)

    async def take(self, holder: Holder, *, duration: timedelta, returning: bool) -> Lease | None:
        async with self._database.transaction() as connection:
            sight = await _look(connection, to_take_it=True)
            if not sight.may_be_taken_by(holder, returning=returning):
                return None
            taken = Lease(
                holder=holder,
                epoch=sight.lease.epoch + 1 if sight.lease is not None else 1,
                expires_at=sight.now + duration,
                duration=duration,
            )
            values = {
                "holder_id": holder.id,
                "holder_name": holder.name,
                "epoch": taken.epoch,
                "expires_at": taken.expires_at,
                "duration": duration,
            }
            if sight.lease is None:
                await connection.execute(insert(table).values(name=_ROW, **values))
            else:
                await connection.execute(update(table).where(table.c.name == _ROW).values(**values))
            return taken

    async def renew(self, lease: Lease) -> bool:
        return await self._set_end(lease, lease.duration)

    async def release(self, lease: Lease) -> None:
        await self._set_end(lease, timedelta(0))

    async def _set_end(self, lease: Lease, after: timedelta) -> bool:
        mine = (table.c.name == _ROW) & (table.c.holder_id == lease.holder.id) & (table.c.epoch == lease.epoch)

        def set_end(connection: Connection) -> bool:
            now = connection.execute(select(database_now())).scalar_one()
            return connection.execute(update(table).where(mine).values(expires_at=now + after)).rowcount == 1

        # In line with the ledger, which writes the same way: of two that wait for SQLite's one lock the more eager one
        # wins, and while a whole mesh renews, that is never the lease.
        return await self._database.at_once(set_end)


class LeaseFence:
    """Fulfils `ca.store.database.Fence`: lets a transaction through while `lease` is the one in the store.

    PostgreSQL locks the row in the weakest way (FOR KEY SHARE): transactions of the holder do not wait for each other
    nor for a renewal, but whoever takes the lease (FOR UPDATE) waits for all of them. SQLite has one writer anyway.
    """

    def __init__(self, lease: Lease, *, on_lost: Callable[[], None]) -> None:
        self._lease = lease
        self._on_lost = on_lost
        self._query = (
            select(table.c.holder_id, table.c.epoch)
            .where(table.c.name == _ROW)
            .with_for_update(read=True, key_share=True)
        )

    def note_lost(self) -> None:
        self._on_lost()

    def check(self, connection: Connection) -> None:
        row = connection.execute(self._query).one_or_none()
        if row is None or (row.holder_id, row.epoch) != (self._lease.holder.id, self._lease.epoch):
            raise Unavailable(
                Reason.LEASE_LOST, "another server owns the store now", fix="ask that one, or try again later"
            )


async def _look(connection: AsyncConnection, *, to_take_it: bool = False) -> Sight:
    query = select(table).where(table.c.name == _ROW)
    row = (await connection.execute(query.with_for_update() if to_take_it else query)).one_or_none()
    # Asked after the lock was waited for: PostgreSQL's clock_timestamp() goes on within a transaction.
    now = (await connection.execute(select(database_now()))).scalar_one()
    if row is None:
        return Sight(lease=None, now=now)
    lease = Lease(
        holder=Holder(id=row.holder_id, name=row.holder_name),
        epoch=row.epoch,
        expires_at=row.expires_at,
        duration=row.duration,
    )
    return Sight(lease=lease, now=now)
