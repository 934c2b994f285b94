"""The Workload Endpoint (WEP-*): the socket, the security header, and which refusal means what."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.secret.v3 import sds_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from citadel._wire import workload_pb2 as pb
from sds.settings import AgentSettings
from tests.agents import running_agent
from tests.servers import Server, refusal, running_server, server_settings
from tests.workloads import HEADER, MYSELF, Agent, Workload, started_again, workload_at

SERVICE = "SpiffeWorkloadAPI"
METHODS = [method.name for method in pb.DESCRIPTOR.services_by_name[SERVICE].methods]
REFUSED = (grpc.StatusCode.INVALID_ARGUMENT, "security_header_missing")
BAD_HEADERS = {
    "absent": (),
    "empty": (("workload.spiffe.io", ""),),
    "TRUE": (("workload.spiffe.io", "TRUE"),),
    "True": (("workload.spiffe.io", "True"),),
    "1": (("workload.spiffe.io", "1"),),
    "twice": (*HEADER, *HEADER),
    "twice, not the same": (*HEADER, ("workload.spiffe.io", "false")),
    "twice in one": (("workload.spiffe.io", "true,true"),),
    "another name": (("workload.spiffe.io.x", "true"),),
    "a name in bytes": (("workload.spiffe.io-bin", b"true"),),
}


def raw_call(workload: Workload, method: str, metadata: Any) -> Any:
    """Any method by its name, also one that no stub has."""
    call = workload.channel.unary_stream(f"/{SERVICE}/{method}")
    return call(b"", metadata=metadata).read()


@pytest.mark.spec("WEP-06", "WEP-07")
@pytest.mark.parametrize("method", [*METHODS, "NoSuchMethod"])
async def test_every_method_refuses_a_call_without_the_header(agent: Agent, workload: Workload, method: str) -> None:
    await agent.entry("/web")
    for what, metadata in BAD_HEADERS.items():
        assert await refusal(raw_call(workload, method, metadata)) == REFUSED, what


@pytest.mark.spec("WEP-21", "WEP-06")
async def test_a_method_that_does_not_exist_is_unimplemented_where_the_header_is_right(workload: Workload) -> None:
    code, _ = await refusal(raw_call(workload, "NoSuchMethod", HEADER))
    assert code is grpc.StatusCode.UNIMPLEMENTED


async def test_what_is_not_the_workload_api_needs_no_header(workload: Workload) -> None:
    health = await health_pb2_grpc.HealthStub(workload.channel).Check(health_pb2.HealthCheckRequest(service=SERVICE))
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    secrets = sds_pb2_grpc.SecretDiscoveryServiceStub(workload.channel).StreamSecrets()
    await secrets.write(discovery_pb2.DiscoveryRequest())
    secrets.cancel()


@pytest.mark.spec("WEP-24", "WEP-23")
async def test_reflection_tells_without_the_header_what_is_there(workload: Workload) -> None:
    call = reflection_pb2_grpc.ServerReflectionStub(workload.channel).ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    listed = (await call.read()).list_services_response.service
    assert SERVICE in {each.name for each in listed}
    await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE))
    assert (await call.read()).file_descriptor_response.file_descriptor_proto
    call.cancel()


@pytest.mark.spec("WEP-01", "WEP-02", "WEP-03", "WEP-09", "WEP-10", "WEP-23")
async def test_it_is_grpc_on_a_unix_socket_for_everybody_on_this_machine_without_tls(
    agent: Agent, workload: Workload
) -> None:
    await agent.entry("/web")
    mode = agent.socket.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o666
    assert (await workload.svids().read()).svids


def listening_ports() -> set[int]:
    """The TCP ports on which this process listens."""
    mine = {str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in mine}


@pytest.mark.spec("WEP-04")
async def test_the_agent_listens_on_no_network(server: Server, tmp_path: Path) -> None:
    before = listening_ports()
    async with running_agent(server, tmp_path / "node") as running:
        assert listening_ports() - before == {running.settings.probes.port}  # loopback, and it gives no identity


@pytest.mark.spec("WEP-11", "WEP-12")
async def test_the_caller_is_known_by_what_the_kernel_says_and_gives_nothing_itself(
    agent: Agent, workload: Workload
) -> None:
    await agent.entry("/mine", MYSELF, f"unix:gid:{os.getegid()}", f"unix:path:{Path('/proc/self/exe').readlink()}")
    await agent.entry("/not-mine", MYSELF, "unix:path:/bin/true")
    assert [svid.spiffe_id for svid in (await workload.svids().read()).svids] == ["spiffe://a.test/mine"]


@pytest.fixture
async def deserted(tmp_path: Path) -> AsyncIterator[AgentSettings]:
    """An agent whose server is away since before it started, with an entry for this process."""
    async with running_server(server_settings(tmp_path)) as server, running_agent(server, tmp_path / "n") as running:
        agent = Agent(server, running)
        await agent.entry("/web")
        async with workload_at(agent.socket) as workload:
            await workload.svids().read()
            await agent.stop()
    async with started_again(running.settings):
        yield running.settings


@pytest.mark.spec("WEP-17")
@pytest.mark.parametrize("method", ["svids", "bundles"])
async def test_an_agent_that_has_not_heard_from_its_server_says_so_and_not_that_there_is_no_identity(
    deserted: AgentSettings, method: str
) -> None:
    async with workload_at(deserted.socket) as workload:
        began = time.perf_counter()
        assert await refusal(getattr(workload, method)().read()) == (grpc.StatusCode.UNAVAILABLE, "not_ready")
        assert time.perf_counter() - began < 1
