"""Agents that open streams and read nothing, or say nothing: bounded, and a ban does not wait for them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from citadel._wire import admin_pb2, agents_pb2, agents_pb2_grpc, types_pb2
from tests.integration.test_server_sync import eventually
from tests.servers import HELLO, Member, Server, refusal, running_server, server_settings, synced

pytestmark = pytest.mark.integration

Code = grpc.StatusCode
MANY = 400  # of 25 KB each


async def stalled(server: Server, member: Member) -> Any:
    """A Sync stream that was opened and is never read, with more to say to it than gRPC holds for it."""
    name = ".".join(["d" * 60] * 4)
    entries = [
        types_pb2.Entry(
            spiffe_id=f"spiffe://a.test/w{number}",
            parent_id=member.spiffe_id,
            selectors=["unix:uid:1000"],
            dns_names=[f"{n}.{name}" for n in range(100)],
        )
        for number in range(MANY)
    ]
    portions = (
        admin_pb2.ApplyEntriesRequest(entries=entries[start : start + 50]) for start in range(0, len(entries), 50)
    )
    async for answer in server.admin().ApplyEntries(portions):
        assert not answer.problems
    call = server.agents(member).Sync()
    await call.write(HELLO)

    async def is_connected() -> bool:
        return (await server.status_of(member)).connected

    await eventually(is_connected)
    await asyncio.sleep(0.5)  # until the server's write is stuck
    return call


async def read_to_its_end(call: Any) -> None:
    while await call.read() is not aio.EOF:
        pass


async def ban(server: Server, member: Member) -> None:
    async with aio.insecure_channel(f"unix:{server.settings.listen.admin_socket}") as channel:
        admin = agents_pb2_grpc.AgentAdminStub(channel)
        await admin.BanAgent(agents_pb2.BanAgentRequest(agent=member.spiffe_id, reason="test"))


async def test_a_ban_ends_the_session_of_an_agent_that_does_not_read(server: Server, agent: Member) -> None:
    call = await stalled(server, agent)
    await ban(server, agent)

    async def is_gone() -> bool:
        return not (await server.status_of(agent)).connected

    await eventually(is_gone)
    assert await refusal(read_to_its_end(call)) == (Code.PERMISSION_DENIED, "agent_banned")


async def test_others_are_served_while_one_does_not_read(server: Server, agent: Member) -> None:
    other = await server.join("node-2")
    call = await stalled(server, agent)
    try:
        async with synced(server, other) as stream:
            await stream.next()
            entry = await server.entry("/theirs", other)
            assert list((await stream.next()).entries) == [entry]
    finally:
        call.cancel()


async def test_news_that_came_while_the_agent_did_not_read_is_not_lost(server: Server, agent: Member) -> None:
    call = await stalled(server, agent)
    last = await server.entry("/last", agent)
    known: set[str] = set()
    async with asyncio.timeout(10):
        while last.id not in known:
            update = await call.read()
            known.update(entry.id for entry in update.entries)
    call.cancel()
    assert len(known) == MANY + 1


async def test_streams_that_never_say_hello_are_bounded_in_number_and_time(tmp_path: Path) -> None:
    limits = {"joins_per_second": 10_000, "silent_streams": 2, "hello_timeout": "1s"}
    async with running_server(server_settings(tmp_path, limits=limits)) as server:
        agent, other = await server.join("node-1"), await server.join("node-2")
        silent = [server.agents(agent).Sync() for _ in range(2)]
        reading = [asyncio.create_task(refusal(call.read())) for call in silent]
        await asyncio.sleep(0.3)
        assert await refusal(server.agents(agent).Sync().read()) == (Code.RESOURCE_EXHAUSTED, "too_many_requests")
        async with synced(server, other) as stream:
            await stream.next()
        assert await asyncio.gather(*reading) == [(Code.INVALID_ARGUMENT, "request_malformed")] * 2
        async with synced(server, agent) as stream:
            await stream.next()
