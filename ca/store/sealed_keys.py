"""Sealed keys in SQL, where every server that may own the store finds them."""

from __future__ import annotations

from sqlalchemy import delete, insert, select

from ca.store.database import Database
from ca.store.schema import sealed_keys
from citadel.errors import FailedPrecondition, Reason


async def all_sealed(database: Database) -> list[bytes]:
    """Every sealed key that is there. Raises `Unavailable` (`store_unavailable`)."""
    async with database.transaction() as connection:
        return [bytes(sealed) for sealed in await connection.scalars(select(sealed_keys.c.sealed))]


class SqlKeys:
    """Fulfils `ca.keys.manager.SealedKeys`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def put(self, key_id: str, sealed: bytes) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(insert(sealed_keys).values(id=key_id, sealed=sealed))

    async def get(self, key_id: str) -> bytes:
        async with self._database.transaction() as connection:
            found = await connection.scalar(select(sealed_keys.c.sealed).where(sealed_keys.c.id == key_id))
        if found is None:
            raise FailedPrecondition(
                Reason.KEY_UNSEALABLE,
                f"key {key_id} is not in the database",
                fix="set keys.store to where it was made (`disk` or `database`), or restore the database from a backup",
            )
        return bytes(found)

    async def delete(self, key_id: str) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(delete(sealed_keys).where(sealed_keys.c.id == key_id))
