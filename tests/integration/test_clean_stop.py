"""SIGTERM to the real processes: open streams end with a clean status, in time, and the exit code is 0."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.secret.v3 import sds_pb2_grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from citadel._wire import admin_pb2
from citadel.config.files import write_private
from citadel.config.types import HostPort
from sds.serve.resource import SECRET_TYPE_URL
from tests.ports import free_port
from tests.servers import Server, connected, http_status, server_settings, synced

pytestmark = pytest.mark.integration

GRACE = 5.0


@asynccontextmanager
async def process(what: str, settings: dict[str, Any], folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    config = folder / f"{what}.yaml"
    config.write_text(yaml.safe_dump(settings))
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli.entry", what, "run", "--config", str(config)
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def ready(probes: HostPort) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                if (await http_status(probes, "/ready"))[0] == 200:
                    return
            except OSError:
                pass
            await asyncio.sleep(0.05)


async def stopped(child: asyncio.subprocess.Process) -> float:
    """Send SIGTERM; the seconds until it has ended well."""
    begun = time.monotonic()
    child.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(child.wait(), 20) == 0
    return time.monotonic() - begun


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[Server, asyncio.subprocess.Process]]:
    settings = server_settings(tmp_path)
    listen = settings.listen
    document = {
        "trust_domain": "a.test",
        "data_dir": str(settings.data_dir),
        "keys": {"kek_file": str(settings.keys.kek_file)},
        "listen": {
            "bootstrap": str(listen.bootstrap),
            "agents": str(listen.agents),
            "probes": str(listen.probes),
            "admin_socket": str(listen.admin_socket),
        },
    }
    async with process("server", document, tmp_path) as child:
        running = await connected(settings, asyncio.create_task(child.wait()))
        yield running, child
        await running.close()


async def test_the_server_says_not_serving_and_ends_sync_streams_well(
    server: tuple[Server, asyncio.subprocess.Process],
) -> None:
    running, child = server
    member = await running.join("node-1")
    async with synced(running, member) as stream, aio.insecure_channel(_admin(running)) as channel:
        await stream.next()
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
        seconds = await stopped(child)
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await stream.call.read() is aio.EOF
        assert await stream.call.code() is grpc.StatusCode.OK
    assert seconds < GRACE


async def test_the_agent_ends_sds_streams_well(
    server: tuple[Server, asyncio.subprocess.Process], tmp_path: Path
) -> None:
    running, _ = server
    settings = await _agent_settings(running, tmp_path)
    async with process("agent", settings, tmp_path) as child:
        await ready(HostPort.parse(settings["probes"]))
        async with aio.insecure_channel(f"unix:{settings['socket']}") as channel:
            call = sds_pb2_grpc.SecretDiscoveryServiceStub(channel).StreamSecrets()
            await call.write(discovery_pb2.DiscoveryRequest(type_url=SECRET_TYPE_URL, resource_names=["default"]))
            await asyncio.sleep(0.3)  # nothing answers a name that waits: let it be asked for
            seconds = await stopped(child)
            assert await asyncio.wait_for(call.read(), 5) is aio.EOF
            assert await call.code() is grpc.StatusCode.OK
    assert seconds < GRACE
    for socket in (settings["socket"], settings["admin_socket"]):
        assert not Path(socket).exists()


async def test_a_process_without_streams_stops_at_once(server: tuple[Server, asyncio.subprocess.Process]) -> None:
    assert await stopped(server[1]) < GRACE / 2


def _admin(server: Server) -> str:
    return f"unix:{server.settings.listen.admin_socket}"


async def _agent_settings(server: Server, folder: Path) -> dict[str, Any]:
    made = await server.admin().CreateToken(admin_pb2.CreateTokenRequest(agent_name="node-1"))
    write_private(folder / "join", made.join_string.encode())
    return {
        "trust_domain": "a.test",
        "data_dir": str(folder / "agent"),
        "socket": str(folder / "agent.sock"),
        "admin_socket": str(folder / "agent-admin.sock"),
        "join": {"string_file": str(folder / "join")},
        "probes": f"127.0.0.1:{free_port()}",
    }
