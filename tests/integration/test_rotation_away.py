"""Agents that are away while the roots change: how long they are waited for, and how they come back."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from grpc import aio

from ca.settings import ServerSettings
from citadel._wire import rotation_pb2 as pb
from citadel._wire.rotation_pb2_grpc import RotationsStub
from citadel.wire import from_timestamp, to_duration
from tests.integration.faulty import Records
from tests.integration.test_agent_returns import SHORT, Node, has_said, is_connected, until
from tests.servers import Server, running_server, server_settings

pytestmark = pytest.mark.integration

AT_ONCE = to_duration(timedelta(0))


@pytest.fixture
def settings(tmp_path: Path) -> ServerSettings:
    return server_settings(tmp_path, svids=SHORT, rotation={"margin": "500ms", "window": "0s"})


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "node")


async def start_root(server: Server, **wish: Any) -> pb.RotationView:
    async with aio.insecure_channel(f"unix:{server.settings.listen.admin_socket}") as channel:
        await RotationsStub(channel).StartRotation(pb.StartRotationRequest(kind="root", window=AT_ONCE, **wish))
        await asyncio.sleep(0.2)
        view: pb.RotationView = await RotationsStub(channel).GetRotation(pb.GetRotationRequest())
        return view


async def ended(server: Server) -> pb.Rotation:
    async with aio.insecure_channel(f"unix:{server.settings.listen.admin_socket}") as channel:
        async with asyncio.timeout(20):
            async for view in RotationsStub(channel).WatchRotation(pb.WatchRotationRequest()):
                rotation = view.rotation
    assert rotation.phase == "done"
    return rotation


async def joined_and_gone(server: Server, node: Node) -> None:
    await node.invite(server)
    async with node.running():
        await until("the agent is connected", is_connected(server))
    assert node.settings.join.string_file is not None
    node.settings.join.string_file.unlink()  # it must come back without a token


@pytest.mark.invariant(3, 4)
async def test_it_is_waited_for_until_its_last_certificate_ends_and_comes_back_however_often_the_root_changed(
    settings: ServerSettings, node: Node
) -> None:
    async with running_server(settings) as server:
        await joined_and_gone(server, node)
        last_end = node.identity.svid.not_after
        view = await start_root(server)
        (holder,) = view.holders
        assert (view.rotation.phase, holder.name) == ("observe", "node-1")
        assert holder.words == "away, and certificates issued through it are valid"
        assert from_timestamp(holder.until) == last_end
        assert (await ended(server)).alarm == ""
        activated = next(each.at for each in Records(server.ledger.path).phases() if each.phase == "activate")
        assert activated >= last_end
        await start_root(server)
        await ended(server)

        known = set(node.identity.bundle.x509_authorities)
        async with node.running():
            await until("the agent is back", is_connected(server))
        assert known.isdisjoint(node.identity.bundle.x509_authorities)
        assert not await node.has_expired()


async def test_one_that_was_skipped_comes_back_though_its_own_svid_is_good_and_nobody_takes_it(
    tmp_path: Path, node: Node
) -> None:
    settings = server_settings(tmp_path, rotation={"margin": "500ms", "window": "0s"})
    async with running_server(settings) as server:
        await joined_and_gone(server, node)
        before = node.identity
        await start_root(server, skip=["node-1"])
        await ended(server)
        async with node.running():
            await until("the agent is back", is_connected(server))
        assert before.svid.not_after > datetime.now(UTC)
        assert set(before.bundle.x509_authorities).isdisjoint(node.identity.bundle.x509_authorities)


async def test_after_an_emergency_only_a_person_brings_back_who_knows_the_tainted_root_alone(
    settings: ServerSettings, node: Node
) -> None:
    async with running_server(settings) as server:
        await joined_and_gone(server, node)
        await start_root(server, emergency=True, deadline=AT_ONCE)
        await ended(server)
        await until("its svid has ended", node.has_expired)
        with structlog.testing.capture_logs() as logs:
            async with node.running():
                await until("it says so", has_said(logs, "bundle_mismatch"))
                await asyncio.sleep(1)  # in which it tries on, every half second
        (said,) = [log for log in logs if log.get("reason") == "bundle_mismatch"]
        assert "join again with a new join string" in said["error"]

        (node.settings.data_dir / "identity.json").unlink()
        await node.invite(server)
        async with node.running():
            await until("the agent is back", is_connected(server))


async def test_nothing_leads_over_a_root_that_was_tainted_since(settings: ServerSettings, node: Node) -> None:
    async with running_server(settings) as server:
        await joined_and_gone(server, node)
        await start_root(server, skip=["node-1"])
        await ended(server)
        await start_root(server, emergency=True, deadline=AT_ONCE)
        await ended(server)
        await until("its svid has ended", node.has_expired)
        with structlog.testing.capture_logs() as logs:
            async with node.running():
                await until("it says so", has_said(logs, "bundle_mismatch"))
