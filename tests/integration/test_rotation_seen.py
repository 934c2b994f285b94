"""A rotation that is held up, as `/ready`, metrics and `status` show it, with a real server and a real agent."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from cli.citadel_cli import citadel_cli
from tests.agents import RunningAgent, running_agent, sds_stream
from tests.servers import Server, http_status

pytestmark = pytest.mark.integration


@pytest.fixture
async def node(server: Server, tmp_path: Path) -> AsyncIterator[RunningAgent]:
    async with running_agent(server, tmp_path / "agent") as running:
        await server.entry("/web", str(running.spiffe_id), f"unix:uid:{os.geteuid()}")
        yield running


async def ask(server: Server, *arguments: str) -> Any:
    command = ["--socket", str(server.settings.listen.admin_socket), *arguments, "-o", "json"]
    result = await asyncio.to_thread(CliRunner().invoke, citadel_cli, command, prog_name="citadel-cli")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


async def ready(server: Server) -> tuple[str, str]:
    """What `/ready` says in all, and of the rotation."""
    status, body = await http_status(server.settings.listen.probes, "/ready")
    assert status == 200
    told = json.loads(body)
    return told["status"], told["checks"]["rotation"]


async def measured(server: Server) -> dict[str, float]:
    _, body = await http_status(server.settings.listen.probes, "/metrics")
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
        if sample.name.startswith("citadel_rotation_")
    }


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await holds():
            await asyncio.sleep(0.05)


async def test_a_rotation_that_is_held_up_is_seen_until_it_is_over(server: Server, node: RunningAgent) -> None:
    assert await ready(server) == ("ready", "none runs")
    assert (await ask(server, "status"))["rotation"] is None
    async with sds_stream(node, "ROOTCA") as proxy:
        await proxy.answer(await proxy.next())
        await ask(server, "rotate", "root", "--detach", "--window", "0s")
        told = await proxy.next()  # and is not answered

        async def is_named() -> bool:
            return (await ask(server, "status"))["rotation"]["holders"] == 1

        await until(is_named)
        shown = (await ask(server, "status"))["rotation"]
        assert (shown["kind"], shown["phase"], shown["paused"]) == ("root", "observe", False)
        assert await ready(server) == ("ready", "root, in observe, waits for 1")
        metrics = await measured(server)
        assert (metrics["citadel_rotation_holders"], metrics["citadel_rotation_proxies_behind"]) == (1, 1)
        assert metrics["citadel_rotation_running"] == 1
        assert metrics["citadel_rotation_longest_wait_seconds"] > 0

        await ask(server, "rotate", "pause")
        assert await ready(server) == ("degraded", "root, in observe, paused")
        assert (await measured(server))["citadel_rotation_paused"] == 1
        await ask(server, "rotate", "resume")
        await ask(server, "rotate", "abort")
        await proxy.answer(told)

        async def is_over() -> bool:
            return await ready(server) == ("ready", "none runs")

        await until(is_over)
        assert (await measured(server)).get("citadel_rotation_running") is None


async def test_a_plan_of_an_emergency_waits_for_no_window(server: Server, node: RunningAgent) -> None:  # noqa: ARG001 - somebody is there
    async def takes(*options: str) -> float:
        plan = await ask(server, "rotate", "root", "--plan", "--window", "70s", *options)
        return float(plan["takes"].removesuffix("s"))

    assert await takes() > 70
    assert await takes("--emergency") < 10
    assert await takes("--emergency=now") == 0
