"""A store on a real disk, and time that stands still."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from ca.store.database import migrate, open_engine
from tests.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    """SQLite in a folder of its own, with the schema of today."""
    made = open_engine(f"sqlite+aiosqlite:///{tmp_path / 'store.db'}")
    await migrate(made)
    yield made
    await made.dispose()
