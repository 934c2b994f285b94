"""A real store, on SQLite and on PostgreSQL, and time that stands still."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ca.store.database import Database
from tests.clock import FakeClock
from tests.postgres import Postgres
from tests.unit.ca.rotating import Disk


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database that holds nothing."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'store.db'}"
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.create_database()


@pytest.fixture
async def database(store_url: str) -> AsyncIterator[Database]:
    """A database of its own, with the schema of today."""
    made = Database.open(store_url)
    await made.migrate()
    yield made
    await made.close()


@pytest.fixture
def disk(database: Database, tmp_path: Path, clock: FakeClock) -> Disk:
    """What servers that rotate leave behind for the next one."""
    return Disk(database, tmp_path / "keys", clock)
