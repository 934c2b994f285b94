"""A real server and a real agent in this process, for the lines about the Workload API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.agents import running_agent
from tests.servers import Server, running_server, server_settings
from tests.workloads import Agent, Workload, workload_at


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running_server(server_settings(tmp_path)) as running:
        yield running


@pytest.fixture
async def agent(server: Server, tmp_path: Path) -> AsyncIterator[Agent]:
    async with running_agent(server, tmp_path / "node") as running:
        yield Agent(server, running)


@pytest.fixture
async def workload(agent: Agent) -> AsyncIterator[Workload]:
    async with workload_at(agent.socket) as workload:
        yield workload
