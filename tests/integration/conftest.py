"""A server in this process, and an agent that has joined it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.postgres import Postgres
from tests.program_logs import logging_as_before
from tests.servers import Member, Server, running_server, server_settings

# These tell what the store does behind each API, so they run on both stores. The other modules are about sockets,
# processes and limits, or, as `test_standby`, about one of the two alone.
_ON_BOTH_STORES: Final = {"test_server_api", "test_server_admin", "test_server_sync"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server" in metafunc.fixturenames and metafunc.module.__name__.rpartition(".")[2] in _ON_BOTH_STORES:
        metafunc.parametrize("store_settings", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Some run the command line in this process, which sets up logging of all of it."""
    with logging_as_before():
        yield


@pytest.fixture
def store_settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the settings say of the store: nothing, which is SQLite, or a PostgreSQL database that is empty."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return {}
    postgres: Postgres = request.getfixturevalue("postgres")
    return {"store_url": postgres.create_database()}


@pytest.fixture
async def server(tmp_path: Path, store_settings: dict[str, Any]) -> AsyncIterator[Server]:
    async with running_server(server_settings(tmp_path, **store_settings)) as running:
        yield running


@pytest.fixture
async def agent(server: Server) -> Member:
    return await server.join("node-1", "node:rack:a")
