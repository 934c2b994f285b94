"""Until when clients that ask by themselves may not know a published root, in SQL."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import delete, insert, select

from ca.store.database import Database
from ca.store.schema import published_roots


class SqlPublishedRoots:
    """Fulfils `ca.rotation.asking.PublishedRoots`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def load(self) -> Mapping[str, datetime]:
        async with self._database.reading() as connection:
            return {row.digest: row.unknown_until for row in await connection.execute(select(published_roots))}

    async def replace(self, until: Mapping[str, datetime]) -> None:
        rows = [{"digest": digest, "unknown_until": end} for digest, end in sorted(until.items())]
        async with self._database.transaction() as connection:
            await connection.execute(delete(published_roots))
            if rows:
                await connection.execute(insert(published_roots), rows)
