"""Keys for tokens rotate under a real agent with a program and a proxy of its own, and then a root does."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
from grpc import aio

from citadel._wire import rotation_pb2 as pb
from citadel._wire.rotation_pb2_grpc import RotationsStub
from tests.agents import SdsStream, running_agent, sds_stream
from tests.servers import Server, running_server, server_settings
from tests.workloads import MYSELF, Call, workload_at

pytestmark = pytest.mark.integration


async def kids(call: Call) -> set[str]:
    """The key ids of the next JWT bundle that a program is sent."""
    return {key["kid"] for key in json.loads((await call.read()).bundles["spiffe://a.test"])["keys"]}


async def acknowledge(stream: SdsStream) -> None:
    """As Envoy does, whatever comes."""
    while True:
        await stream.answer(await stream.next())


def rotations(server: Server) -> RotationsStub:
    return RotationsStub(server._open(aio.insecure_channel(f"unix:{server.settings.listen.admin_socket}")))


async def rotated(server: Server, kind: str) -> pb.RotationView:
    """How a rotation ended that nobody holds up."""
    await rotations(server).StartRotation(pb.StartRotationRequest(kind=kind))
    async with asyncio.timeout(20):
        async for view in rotations(server).WatchRotation(pb.WatchRotationRequest()):
            last = view
    return last


@pytest.mark.invariant(3, 11)
@pytest.mark.spec("JWT-30")
async def test_a_key_is_at_every_program_before_it_signs_and_holds_up_no_root_afterwards(tmp_path: Path) -> None:
    settings = server_settings(tmp_path, rotation={"margin": "500ms", "window": "0s"})
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running_server(settings))
        agent = await stack.enter_async_context(running_agent(server, tmp_path / "agent"))
        await server.entry("/web", str(agent.spiffe_id), MYSELF)
        proxy = await stack.enter_async_context(sds_stream(agent, "ROOTCA"))
        acknowledging = asyncio.create_task(acknowledge(proxy))
        program = await stack.enter_async_context(workload_at(agent.settings.socket))
        keys = program.jwt_bundles()
        before = await kids(keys)

        view = await rotated(server, "jwt")
        assert (view.rotation.phase, view.rotation.alarm) == ("done", "")
        both, after = await kids(keys), await kids(keys)
        assert (len(before), len(after), both) == (1, 1, before | after)

        plan = await rotations(server).PlanRotation(pb.StartRotationRequest(kind="root"))
        assert list(plan.holders) == [], "the proxy was sent nothing, and nobody waits for it"
        view = await rotated(server, "root")
        assert (view.rotation.phase, view.rotation.alarm) == ("done", "")
        assert (view.proxies, view.proxies_acknowledged) == (1, 1)
        acknowledging.cancel()
        with suppress(asyncio.CancelledError):
            await acknowledging
