"""From the administrator's call to the proxy: `CreateEntry` answered, signed, pushed, received."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

import yaml
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.secret.v3 import sds_pb2_grpc
from grpc import aio

from citadel._wire import admin_pb2
from citadel.config.files import write_private
from citadel.config.types import HostPort
from sds.serve.resource import SECRET_TYPE_URL
from tests.bench.effort import Effort
from tests.bench.machine import Cores
from tests.bench.processes import server_process, spawned, until_ready
from tests.bench.report import Row
from tests.ports import free_port
from tests.servers import Server

_PATIENCE: Final = 20.0
_PAUSE: Final = 0.02  # between one change and the next


async def entry_to_secret(folder: Path, cores: Cores, effort: Effort) -> list[Row]:
    """The time from the call of `CreateEntry` to its certificate on an SDS stream that waits for it."""
    async with (
        server_process(folder / "server", cores) as (server, _),
        running_agent(folder / "agent", server, cores) as socket,
        aio.insecure_channel(f"unix:{socket}") as channel,
    ):
        stream: Any = sds_pb2_grpc.SecretDiscoveryServiceStub(channel).StreamSecrets()
        taken = [await _created_and_received(server, stream, number) for number in range(effort.pushes)]
        stream.cancel()
    cuts = quantiles(taken[len(taken) // 10 :], n=100, method="inclusive")  # the first ones warm up
    what = "entry create to the secret on an open SDS stream"
    return [
        Row(what=f"{what}: p50", value=cuts[49], unit="ms", goal=50, at_most=True, note=f"{len(taken)} entries"),
        Row(what=f"{what}: p99", value=cuts[98], unit="ms", goal=250, at_most=True),
    ]


async def _created_and_received(server: Server, stream: Any, number: int) -> float:
    name = f"spiffe://a.test/new-{number}"
    await stream.write(discovery_pb2.DiscoveryRequest(type_url=SECRET_TYPE_URL, resource_names=[name]))
    await asyncio.sleep(_PAUSE)
    begun = time.perf_counter()
    creating = asyncio.create_task(
        server.entry(f"/new-{number}", "spiffe://a.test/citadel/agent/node-1", f"unix:uid:{os.geteuid()}")
    )
    async with asyncio.timeout(_PATIENCE):
        while True:
            response = await stream.read()
            if any(name.encode() in resource.value for resource in response.resources):
                break
    taken = (time.perf_counter() - begun) * 1000
    await creating
    acknowledged = discovery_pb2.DiscoveryRequest(
        type_url=SECRET_TYPE_URL,
        resource_names=[name],
        version_info=response.version_info,
        response_nonce=response.nonce,
    )
    await stream.write(acknowledged)
    return taken


@asynccontextmanager
async def running_agent(
    folder: Path, server: Server, cores: Cores, *, core: int | None = None, **sections: Any
) -> AsyncIterator[Path]:
    """A real agent, joined with a token; yields its socket. It shares the core of the load unless another is given."""
    folder.mkdir(mode=0o700)
    made = await server.admin().CreateToken(admin_pb2.CreateTokenRequest(agent_name="node-1"))
    join_string, config, socket = folder / "join", folder / "agent.yaml", folder / "agent.sock"
    write_private(join_string, made.join_string.encode())
    probes = HostPort("127.0.0.1", free_port())
    settings = {
        "trust_domain": "a.test",
        "data_dir": str(folder / "data"),
        "socket": str(socket),
        "probes": str(probes),
        "join": {"string_file": str(join_string)},
        "log": {"level": "warning"},
        **sections,
    }
    config.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "cli.entry", "agent", "run", "--config", str(config)]
    async with spawned(command, core=cores.load if core is None else core, log=folder / "agent.log"):
        await until_ready(probes)
        yield socket
