"""A store on a real disk, and time that stands still."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ca.store.database import Database
from tests.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """SQLite in a folder of its own, with the schema of today."""
    made = Database.open(f"sqlite+aiosqlite:///{tmp_path / 'store.db'}")
    await made.migrate()
    yield made
    await made.close()
