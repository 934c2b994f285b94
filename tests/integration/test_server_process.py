"""The server as a process: its start, its stop, its restart, and `kill -9` while it issues."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc import aio

from citadel._wire import bootstrap_pb2
from citadel.config.types import HostPort
from citadel.errors import InvalidArgument
from citadel.svid import X509Svid
from cli.server_process import run_server
from tests.csrs import csr
from tests.servers import (
    Member,
    Server,
    connected,
    http_status,
    running_server,
    server_settings,
    sign,
    synced,
)

pytestmark = pytest.mark.integration

Code = grpc.StatusCode


async def test_probes_say_live_and_ready(server: Server) -> None:
    probes = server.settings.listen.probes
    assert (await http_status(probes, "/live"))[0] == 200
    status, body = await http_status(probes, "/ready")
    assert (status, json.loads(body)["status"]) == (200, "ready")


async def test_a_stop_ends_within_the_grace_while_a_stream_is_open(tmp_path: Path) -> None:
    settings, stop = server_settings(tmp_path), asyncio.Event()
    process = asyncio.create_task(run_server(settings, stop=stop))
    server = await connected(settings, process)
    try:
        async with synced(server, await server.join("node-1")) as stream:
            await stream.next()
            stop.set()
            begun = time.monotonic()
            await process
            assert time.monotonic() - begun < 2, "streams are ended at once, not after the grace"
            assert await stream.call.read() is aio.EOF
    finally:
        await server.close()
    assert not settings.listen.admin_socket.exists()


async def test_a_door_that_cannot_open_ends_the_start_and_closes_the_others(tmp_path: Path) -> None:
    settings = server_settings(tmp_path)
    with pytest.raises(InvalidArgument):
        async with _listening(settings.listen.probes):
            await run_server(settings, stop=asyncio.Event())
    assert not settings.listen.admin_socket.exists()
    async with running_server(settings) as server:  # every address is free again
        await server.join("node-1")


@asynccontextmanager
async def _listening(address: HostPort) -> AsyncIterator[None]:
    taken = await asyncio.start_server(lambda *_: None, address.host, address.port)
    async with taken:
        yield


@pytest.mark.invariant(11, 12)
async def test_a_restart_keeps_agents_entries_tokens_and_trust(tmp_path: Path) -> None:
    async with running_server(server_settings(tmp_path)) as server:
        agent = await server.join("node-1")
        entry, token, before = await server.entry("/web", agent), await server.token("node-2"), server.published
    async with running_server(server_settings(tmp_path)) as server:
        assert server.published == before
        (result,) = await sign(server.agents(agent), (entry.id, csr()))
        assert result.svid.spiffe_id == "spiffe://a.test/web"
        await server.bootstrap().Join(bootstrap_pb2.JoinRequest(token=token, csr=csr()))


CONFIG = """
trust_domain: a.test
data_dir: {0.data_dir}
keys: {{kek_file: {0.keys.kek_file}}}
listen:
  bootstrap: {0.listen.bootstrap}
  agents: {0.listen.agents}
  probes: {0.listen.probes}
  admin_socket: {0.listen.admin_socket}
log: {{level: warning}}
"""


@pytest.mark.invariant(2, 12)
async def test_killed_while_issuing_it_has_recorded_all_that_it_answered(tmp_path: Path) -> None:
    settings = server_settings(tmp_path)
    config = tmp_path / "server.yaml"
    config.write_text(CONFIG.format(settings))
    command = [sys.executable, "-m", "cli.entry", "server", "run", "--config", str(config)]
    child = await asyncio.create_subprocess_exec(*command)
    try:
        server = await connected(settings, asyncio.create_task(child.wait()))
        agent = await server.join("node-1")
        entry = await server.entry("/web", agent)
        answered = await _issue_until_killed(server, agent, entry.id, child)
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()
    await server.close()

    assert len(answered) >= 100
    assert set(answered) <= set(server.ledger.serials())
    assert server.ledger.is_intact()
    async with running_server(settings) as again:
        assert again.published == server.published
        (result,) = await sign(again.agents(agent), (entry.id, csr()))
        assert result.svid.spiffe_id == "spiffe://a.test/web"
        assert set(answered) <= set(again.ledger.serials())


async def _issue_until_killed(
    server: Server, agent: Member, entry_id: str, child: asyncio.subprocess.Process
) -> list[str]:
    """Keep several calls in flight, kill -9 the server in their midst, and give back every serial that was answered."""
    answered: list[str] = []
    request = csr()

    async def ask() -> None:
        agents = server.agents(agent)
        while True:
            try:
                results = await sign(agents, *[(entry_id, request)] * 5)
            except aio.AioRpcError:
                return
            answered.extend(X509Svid.from_der(result.svid.chain).serial for result in results)

    asking = [asyncio.create_task(ask()) for _ in range(8)]
    async with asyncio.timeout(30):
        while len(answered) < 200:
            await asyncio.sleep(0)
    child.send_signal(signal.SIGKILL)
    await asyncio.gather(*asking)
    return answered
