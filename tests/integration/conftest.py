"""A server in this process, and an agent that has joined it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.servers import Member, Server, running_server, server_settings


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running_server(server_settings(tmp_path)) as running:
        yield running


@pytest.fixture
async def agent(server: Server) -> Member:
    return await server.join("node-1", "node:rack:a")
