"""A program that fetched once and closed its stream, while the root changes: it goes on with its certificate."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
from grpc import aio

from citadel._wire import admin_pb2, insight_pb2
from citadel._wire import rotation_pb2 as pb
from citadel._wire.insight_pb2_grpc import InsightStub
from citadel._wire.rotation_pb2_grpc import RotationsStub
from citadel.serial import serial_hex
from citadel.wire import from_timestamp, to_duration
from cli.workload.address import ADDRESS_VARIABLE
from tests.agents import running_agent
from tests.integration.faulty import Records
from tests.integration.meshes import until
from tests.servers import Server
from tests.workloads import Agent

pytestmark = [pytest.mark.integration, pytest.mark.invariant(4)]

CLIENT: Final = Path(__file__).with_name("py_spiffe_client.py")
SECOND: Final = timedelta(seconds=1)
VIEW: Final = pb.GetRotationRequest()


@dataclass(frozen=True)
class Job:
    """A process with py-spiffe that goes on after it fetched once."""

    process: asyncio.subprocess.Process
    serial: str
    ends: datetime
    authorities: int

    @property
    def words(self) -> str:
        return f"pid {self.process.pid} closed its stream and may hold {self.serial}"

    async def exits(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert await asyncio.wait_for(self.process.wait(), 10) == 0


@pytest.fixture
async def node(server: Server, tmp_path: Path) -> AsyncIterator[Agent]:
    async with running_agent(server, tmp_path / "node") as running:
        yield Agent(server, running)


@pytest.fixture
async def rotations(server: Server) -> AsyncIterator[RotationsStub]:
    async with aio.insecure_channel(f"unix:{server.settings.listen.admin_socket}") as channel:
        yield RotationsStub(channel)


@asynccontextmanager
async def job(node: Agent) -> AsyncIterator[Job]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(CLIENT), "job"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {ADDRESS_VARIABLE: f"unix://{node.socket}"},
    )
    try:
        assert process.stdout is not None
        got = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
        yield Job(process, serial_hex(got["serial"]), datetime.fromtimestamp(got["ends"], UTC), got["authorities"])
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def observes(rotations: RotationsStub) -> None:
    """Begin, and stay where the new root is in the bundle and signs nothing."""
    await rotations.StartRotation(pb.StartRotationRequest(kind="root", window=to_duration(timedelta(0))))

    async def is_observing() -> bool:
        return (await rotations.GetRotation(VIEW)).rotation.phase == "observe"

    await until("it observes", is_observing, seconds=20)
    paused = await rotations.PauseRotation(pb.PauseRotationRequest(why="until the job has fetched"))
    assert paused.phase == "observe"


async def waits_for(rotations: RotationsStub, words: str, *, phase: str = "drain") -> pb.Holder:
    """The one that this phase waits for."""
    found: list[pb.Holder] = []

    async def is_named() -> bool:
        view = await rotations.GetRotation(VIEW)
        found[:] = view.holders
        return [(view.rotation.phase, each.words) for each in found] == [(phase, words)]

    await until(f"{phase} waits for {words!r}", is_named, seconds=20)
    return found[0]


async def is_over(rotations: RotationsStub) -> pb.Rotation:
    async with asyncio.timeout(60):
        async for view in rotations.WatchRotation(pb.WatchRotationRequest()):
            rotation = view.rotation
    assert (rotation.phase, rotation.alarm) == ("done", "")
    return rotation


async def test_the_old_root_stays_until_what_it_holds_has_ended(
    server: Server, node: Agent, rotations: RotationsStub
) -> None:
    await node.entry("/job", x509_svid_ttl=16 * SECOND)
    await observes(rotations)
    async with job(node) as running:
        assert running.authorities == 2, "it knows the new root, and has a certificate of the old one"
        await rotations.ResumeRotation(pb.ResumeRotationRequest(why="go on"))
        holder = await waits_for(rotations, running.words)
        assert from_timestamp(holder.until) == running.ends
        await _is_shown_nowhere_as_a_proxy(server)
        await is_over(rotations)
        retired = next(each.at for each in Records(server.ledger.path).phases() if each.phase == "retire")
        assert retired >= running.ends


async def test_a_process_that_exits_holds_up_nothing(node: Agent, rotations: RotationsStub) -> None:
    await node.entry("/job", x509_svid_ttl=timedelta(hours=1))
    await observes(rotations)
    async with job(node) as first, job(node) as second:
        await first.exits()
        await rotations.ResumeRotation(pb.ResumeRotationRequest(why="go on"))
        await waits_for(rotations, second.words)
        await second.exits()
        await is_over(rotations)
    assert datetime.now(UTC) < second.ends - timedelta(minutes=50)


@pytest.mark.invariant(3)
async def test_before_a_new_root_signs_it_may_be_an_envoy_that_comes_back(
    node: Agent, rotations: RotationsStub
) -> None:
    await node.entry("/job")
    async with job(node) as running:
        await rotations.StartRotation(pb.StartRotationRequest(kind="root", window=to_duration(timedelta(0))))
        words = f"pid {running.process.pid} closed its stream a moment ago, and may come back with an older bundle"
        holder = await waits_for(rotations, words, phase="observe")
        assert from_timestamp(holder.until) - datetime.now(UTC) <= 35 * SECOND
        await running.exits()
        await is_over(rotations)


async def _is_shown_nowhere_as_a_proxy(server: Server) -> None:
    async with aio.insecure_channel(f"unix:{server.settings.listen.admin_socket}") as channel:
        assert not (await InsightStub(channel).ListProxies(insight_pb2.ListProxiesRequest())).proxies
    status = await server.admin().GetStatus(admin_pb2.GetStatusRequest())
    assert [list(each.streams) for each in status.agents] == [[]]
