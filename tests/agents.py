"""A Citadel agent in this process, joined to a server in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.secret.v3 import sds_pb2_grpc
from grpc import aio

from citadel._wire import admin_pb2, bootstrap_pb2
from citadel.config.files import write_private
from citadel.config.types import HostPort
from citadel.reserved import agent_id
from citadel.spiffe import SpiffeId
from citadel.svid import X509Svid
from cli.agent_kubernetes import PROC
from cli.agent_process import run_agent
from sds.link.identity import AgentIdentity, IdentityFile
from sds.serve.resource import SECRET_TYPE_URL
from sds.settings import AgentSettings
from tests.csrs import csr, new_key
from tests.ports import free_port
from tests.servers import Server, http_status

_PATIENCE: Final = 20.0


@dataclass(frozen=True)
class RunningAgent:
    """An agent that runs with `settings`."""

    settings: AgentSettings
    spiffe_id: SpiffeId
    process: asyncio.Task[None]
    stop: asyncio.Event

    @property
    def name(self) -> str:
        return self.spiffe_id.path.rpartition("/")[2]


async def join_by_token(server: Server, data_dir: Path, *, cluster: str, token: str) -> None:
    """Have the identity of an agent by the token of its pod, and keep it where the agent looks for it."""
    key = new_key()
    request = bootstrap_pb2.JoinKubernetesRequest(cluster=cluster, token=token, csr=csr(key))
    answer = await server.bootstrap().JoinKubernetes(request)
    identity = AgentIdentity(
        svid=X509Svid.from_der(answer.chain),
        key=key,
        bundle=server.bundle,
        agent_api=HostPort.parse(answer.agent_api),
        bootstrap=server.settings.listen.bootstrap,
    )
    data_dir.mkdir(mode=0o700, parents=True)
    IdentityFile(data_dir).save(identity)


@asynccontextmanager
async def running_agent(
    server: Server,
    folder: Path,
    *,
    name: str = "node-1",
    admin_socket: Path | None = None,
    kubernetes: Mapping[str, Any] | None = None,
    policy_file: Path | None = None,
    limits: Mapping[str, int] | None = None,
    proc: Path = PROC,
) -> AsyncIterator[RunningAgent]:
    """Run an agent until the block ends. It is ready when the block begins. `proc` tells of cgroups.

    Where its identity lies in `folder` already it does not join.
    """
    made = await server.admin().CreateToken(admin_pb2.CreateTokenRequest(agent_name=name))
    folder.mkdir(mode=0o700, exist_ok=True)
    write_private(folder / "join", made.join_string.encode())
    settings = AgentSettings.model_validate(
        {
            "trust_domain": server.settings.trust_domain.name,
            "data_dir": folder / "data",
            "socket": folder / "agent.sock",
            "admin_socket": admin_socket or folder / "agent-admin.sock",
            "join": {"string_file": folder / "join"},
            "probes": f"127.0.0.1:{free_port()}",
            "kubernetes": kubernetes,
            "authz": {"policy_file": policy_file},
            "limits": limits or {},
        }
    )
    stop = asyncio.Event()
    process = asyncio.create_task(run_agent(settings, stop=stop, proc=proc))
    agent = RunningAgent(settings, agent_id(server.settings.trust_domain, name), process, stop)
    try:
        await _ready(agent)
        yield agent
    finally:
        stop.set()
        await process


async def _ready(agent: RunningAgent) -> None:
    async with asyncio.timeout(_PATIENCE):
        while True:
            if agent.process.done():
                await agent.process
                raise AssertionError("the agent ended before it was ready")
            try:
                if (await http_status(agent.settings.probes, "/ready"))[0] == 200:
                    return
            except OSError:
                pass
            await asyncio.sleep(0.02)


@dataclass
class SdsStream:
    """One StreamSecrets stream of this very process."""

    call: Any
    name: str

    async def next(self) -> discovery_pb2.DiscoveryResponse:
        response = await asyncio.wait_for(self.call.read(), 10)
        assert response is not aio.EOF
        return response

    async def answer(self, response: discovery_pb2.DiscoveryResponse, *, refusal: str = "") -> None:
        request = discovery_pb2.DiscoveryRequest(
            type_url=SECRET_TYPE_URL, resource_names=[self.name], response_nonce=response.nonce
        )
        if refusal:
            request.error_detail.message = refusal
        else:
            request.version_info = response.version_info
        await self.call.write(request)


@asynccontextmanager
async def sds_stream(agent: RunningAgent, name: str) -> AsyncIterator[SdsStream]:
    """An SDS stream that asks for `name`."""
    async with sds_stream_at(agent.settings.socket, name) as stream:
        yield stream


@asynccontextmanager
async def sds_stream_at(socket: Path, name: str) -> AsyncIterator[SdsStream]:
    """The same at the socket of an agent that runs elsewhere."""
    async with aio.insecure_channel(f"unix:{socket}") as channel:
        call = sds_pb2_grpc.SecretDiscoveryServiceStub(channel).StreamSecrets()
        await call.write(discovery_pb2.DiscoveryRequest(type_url=SECRET_TYPE_URL, resource_names=[name]))
        yield SdsStream(call, name)
        call.cancel()
