"""What the tests of the command line share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.clock import FakeClock
from tests.program_logs import logging_as_before
from tests.unit.cli.fake_admin import FakeAdmin, Program, serving


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """The program sets up logging of its whole process."""
    with logging_as_before():
        yield


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def admin(clock: FakeClock, tmp_path: Path) -> AsyncIterator[FakeAdmin]:
    admin = FakeAdmin(clock)
    async with serving(admin, tmp_path / "admin.sock"):
        yield admin


@pytest.fixture
def program(clock: FakeClock, tmp_path: Path) -> Program:
    return Program(tmp_path / "admin.sock", clock)
