"""Keys for tokens rotate under a real agent, also when the server is killed, and then a root does."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from grpc import aio

from ca.settings import ServerSettings
from citadel._wire import agent_api_pb2, bootstrap_pb2
from citadel._wire import rotation_pb2 as pb
from citadel._wire.rotation_pb2_grpc import RotationsStub
from citadel.bundle import TrustBundle
from tests.agents import SdsStream, running_agent, sds_stream
from tests.integration.faulty import Assassin
from tests.integration.test_clean_stop import process
from tests.servers import Member, Server, connected, running_server, server_settings
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
    last = pb.RotationView()
    try:
        async with asyncio.timeout(20):
            async for view in rotations(server).WatchRotation(pb.WatchRotationRequest()):
                last = view
    except TimeoutError:
        pytest.fail(f"it has not ended: {last}")
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


def document(settings: ServerSettings) -> dict[str, Any]:
    """The settings as a file says them."""
    listen = settings.listen
    return {
        "trust_domain": settings.trust_domain.name,
        "data_dir": str(settings.data_dir),
        "keys": {"kek_file": str(settings.keys.kek_file)},
        "listen": {
            "bootstrap": str(listen.bootstrap),
            "agents": str(listen.agents),
            "probes": str(listen.probes),
            "admin_socket": str(listen.admin_socket),
        },
        "rotation": {"margin": "500ms"},
    }


async def signed(server: Server, agent: Member, entry_id: str) -> str:
    """The kid of a new token."""
    request = agent_api_pb2.JwtSvidRequest(entry_id=entry_id, audience=["shop"])
    answer = await server.agents(agent).SignJwtSvids(agent_api_pb2.SignJwtSvidsRequest(requests=[request]))
    return str(jwt.get_unverified_header(answer.results[0].svid.token)["kid"])


@pytest.mark.invariant(4, 12)
@pytest.mark.spec("JWT-30")
async def test_killed_in_each_phase_it_goes_on_and_knows_until_when_tokens_live(tmp_path: Path) -> None:
    settings = server_settings(tmp_path)
    store, entry_id, old = settings.data_dir / "citadel.db", "", ""
    for phase in ("observe", "activate", "drain"):
        async with process("server", document(settings), tmp_path) as child:
            if phase == "observe":
                server = await connected(settings)
                agent = await server.join("node-1")
                entry_id = (await server.entry("/web", agent)).id
                old = await signed(server, agent, entry_id)
            async with Assassin(store, child.pid, [phase]) as assassin:
                if phase == "observe":
                    with suppress(aio.AioRpcError):
                        await rotations(server).StartRotation(pb.StartRotationRequest(kind="jwt", skip=["node-1"]))
                assert await assassin.has_struck() == phase
            await child.wait()
    async with process("server", document(settings), tmp_path):
        server = await connected(settings)
        async with asyncio.timeout(20):
            while not (view := await rotations(server).GetRotation(pb.GetRotationRequest())).holders:
                await asyncio.sleep(0.02)
        assert [(each.name, view.rotation.phase) for each in view.holders] == [(f"jwt/{old}", "drain")]
        assert view.holders[0].until.ToDatetime(UTC) - datetime.now(UTC) > timedelta(minutes=4)
        assert await signed(server, agent, entry_id) != old
        own = await server.bootstrap().GetBundle(bootstrap_pb2.GetBundleRequest())
        assert len(TrustBundle.from_json(settings.trust_domain, own.bundle.json).jwt_authorities) == 2
        await server.close()
