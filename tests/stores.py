"""Stores with the schema of today, copied from one that was migrated once: most tests are not about migrations."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from ca.store.database import Database
from tests.postgres import Postgres


class MigratedStores:
    """Copies of one store of each kind, which is made when the first copy is asked for."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "migrated.db"
        self._template = ""

    def sqlite(self, path: Path) -> str:
        """A copy at `path`; returns its URL."""
        if not self._file.exists():
            _migrate(f"sqlite+aiosqlite:///{self._file}")
        shutil.copy(self._file, path)
        return f"sqlite+aiosqlite:///{path}"

    def postgresql(self, postgres: Postgres) -> str:
        """A copy in a database of its own; returns its URL."""
        if not self._template:
            url = postgres.create_database()
            _migrate(url)
            self._template = url.rpartition("/")[2]
        return postgres.create_database(template=self._template)


def _migrate(url: str) -> None:
    async def migrate() -> None:
        database = Database.open(url)
        await database.migrate()
        await database.close()

    asyncio.run(migrate())
