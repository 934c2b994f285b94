"""A real store, on SQLite and on PostgreSQL, and time that stands still."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ca.store.database import Database
from tests.clock import FakeClock
from tests.postgres import Postgres
from tests.stores import MigratedStores
from tests.unit.ca.rotating import Disk


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="session")
def migrated_stores(tmp_path_factory: pytest.TempPathFactory) -> MigratedStores:
    return MigratedStores(tmp_path_factory.mktemp("migrated"))


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path, migrated_stores: MigratedStores) -> str:
    """The URL of a database that holds nothing; beside `database` it has its schema already."""
    is_empty = "database" not in request.fixturenames
    path = tmp_path / "store.db"
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{path}" if is_empty else migrated_stores.sqlite(path)
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.create_database() if is_empty else migrated_stores.postgresql(postgres)


@pytest.fixture
async def database(store_url: str) -> AsyncIterator[Database]:
    """A database of its own, with the schema of today."""
    made = Database.open(store_url)
    yield made
    await made.close()


@pytest.fixture
def disk(database: Database, tmp_path: Path, clock: FakeClock) -> Disk:
    """What servers that rotate leave behind for the next one."""
    return Disk(database, tmp_path / "keys", clock)
