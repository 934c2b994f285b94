"""One rotation at a time: a second one is refused, and told which one runs."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import grpc
import pytest
from grpc import aio

from citadel._wire import rotation_pb2 as pb
from citadel._wire.rotation_pb2_grpc import RotationsStub
from tests.servers import Member, Server, reason_of

pytestmark = pytest.mark.integration


@pytest.fixture
async def running(server: Server, agent: Member) -> pb.Rotation:
    """A rotation that waits for `agent`, which is away."""
    del agent
    async with aio.insecure_channel(f"unix:{server.settings.listen.admin_socket}") as channel:
        rotation: pb.Rotation = await RotationsStub(channel).StartRotation(pb.StartRotationRequest(kind="root"))
        return rotation


@pytest.mark.parametrize("kind", ["root", "issuer", "svid"])
async def test_a_second_rotation_of_any_kind_is_refused_and_changes_nothing(
    server: Server, running: pb.Rotation, kind: str
) -> None:
    async with aio.insecure_channel(f"unix:{server.settings.listen.admin_socket}") as channel:
        rotations = RotationsStub(channel)
        with pytest.raises(aio.AioRpcError) as refused:
            await rotations.StartRotation(pb.StartRotationRequest(kind=kind))
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert reason_of(refused.value) == "rotation_running"
        assert f"the rotation {running.id} (root) is in its phase" in str(refused.value.details())
        assert [each.id for each in (await rotations.ListRotations(pb.ListRotationsRequest())).rotations] == [
            running.id
        ]
        view = await rotations.GetRotation(pb.GetRotationRequest())
        assert (view.rotation.id, view.rotation.emergency) == (running.id, False)


async def test_an_emergency_alone_waits_for_no_other_rotation(server: Server, running: pb.Rotation) -> None:
    async with aio.insecure_channel(f"unix:{server.settings.listen.admin_socket}") as channel:
        rotations = RotationsStub(channel)
        emergency = await rotations.StartRotation(pb.StartRotationRequest(kind="root", emergency=True))
        newest, before = (await rotations.ListRotations(pb.ListRotationsRequest())).rotations
        assert (newest.id, before.id, before.phase) == (emergency.id, running.id, "superseded")
        assert emergency.id in before.alarm


async def test_the_command_says_so_and_ends_with_its_exit_code(server: Server, running: pb.Rotation) -> None:
    socket = str(server.settings.listen.admin_socket)
    program = Path(sys.executable).with_name("citadel-cli")
    process = await asyncio.create_subprocess_exec(
        program, "--socket", socket, "rotate", "issuer", "-o", "json", stderr=asyncio.subprocess.PIPE
    )
    _, stderr = await process.communicate()
    assert process.returncode == 8, stderr
    error = json.loads(stderr)["error"]
    assert error["reason"] == "rotation_running"
    assert running.id in error["message"]
