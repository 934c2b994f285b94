"""Agents that ask for credentials which are not theirs, for too many, or too often: bounded, refused, counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc import aio

from ca.api.credentials import MOST_WANTED
from citadel._wire import agent_api_pb2, records_pb2, records_pb2_grpc
from tests.integration.test_sync_hardening import ban, read_to_its_end
from tests.servers import Member, Server, reason_of

pytestmark = pytest.mark.integration

Code = grpc.StatusCode


def wanted(*pairs: tuple[str, str]) -> agent_api_pb2.WantedCredentials:
    return agent_api_pb2.WantedCredentials(
        wanted=[agent_api_pb2.WantedCredential(entry_id=entry_id, name=name) for entry_id, name in pairs]
    )


def flood(number: int, mark: str = "") -> agent_api_pb2.WantedCredentials:
    return wanted(*((f"{mark}{each}", "kubernetes://web") for each in range(number)))


@asynccontextmanager
async def watching(server: Server, member: Member, message: agent_api_pb2.WantedCredentials) -> AsyncIterator[Any]:
    call = server.agents(member).WatchCredentials()
    await call.write(message)
    try:
        yield call
    finally:
        call.cancel()


async def read(call: Any) -> agent_api_pb2.CredentialUpdate:
    update = await asyncio.wait_for(call.read(), 10)
    assert isinstance(update, agent_api_pb2.CredentialUpdate)
    return update


async def end_of(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(aio.AioRpcError) as ended:
        await asyncio.wait_for(read_to_its_end(call), 10)
    return ended.value.code(), reason_of(ended.value)


async def refusals(server: Server) -> set[tuple[str, str]]:
    """Why who was refused, by the audit log."""
    async with aio.insecure_channel(f"unix:{server.settings.listen.admin_socket}") as channel:
        found = await records_pb2_grpc.RecordsStub(channel).ListActs(records_pb2.ListActsRequest(page_size=100))
    return {(act.reason, act.actor.removeprefix("identity:")) for act in found.acts if act.reason}


async def test_nothing_is_told_that_is_not_the_agents_and_nothing_that_is_no_gateways(
    server: Server, agent: Member
) -> None:
    other = await server.join("node-2")
    theirs = await server.entry("/theirs", other)
    mine = await server.entry("/mine", agent)
    asked = wanted((theirs.id, "kubernetes://web"), ("made-up", "kubernetes://web"), (mine.id, "kubernetes://web"))
    async with watching(server, agent, asked) as call:
        told = {update.entry_id: update for update in [await read(call) for _ in range(3)]}
        reasons = {entry_id: update.withdrawn.why.reason for entry_id, update in told.items()}
        assert reasons == {
            theirs.id: "entry_not_authorized",
            "made-up": "entry_not_authorized",
            mine.id: "credential_not_allowed",
        }
        assert (await server.status()).refused["entry_not_authorized"] == 2
        await call.write(wanted((mine.id, "kubernetes://other")))
        assert (await read(call)).name == "kubernetes://other"  # and no word of the others any more
    expected = {("entry_not_authorized", agent.spiffe_id), ("credential_not_allowed", agent.spiffe_id)}
    async with asyncio.timeout(10):
        while not expected <= await refusals(server):
            await asyncio.sleep(0.02)


async def test_too_much_is_refused_as_a_whole(server: Server, agent: Member) -> None:
    async with watching(server, agent, flood(MOST_WANTED + 1)) as call:
        assert await end_of(call) == (Code.RESOURCE_EXHAUSTED, "too_many_requests")
    for mark in ("a", "b"):  # what is within the limits is answered
        async with watching(server, agent, flood(MOST_WANTED - 10, mark)) as call:
            for _ in range(MOST_WANTED - 10):
                await read(call)
    async with watching(server, agent, flood(MOST_WANTED - 10, "c")) as call:  # and so is not what comes in a loop
        assert await end_of(call) == (Code.RESOURCE_EXHAUSTED, "too_many_requests")
    other = await server.join("node-2")
    async with watching(server, other, flood(1)) as call:  # nobody else has less for it
        assert (await read(call)).withdrawn.why.reason == "entry_not_authorized"


async def test_an_agent_has_few_streams_and_a_ban_ends_them(server: Server, agent: Member) -> None:
    agents = server.agents(agent)
    calls = [agents.WatchCredentials() for _ in range(4)]
    for call in calls:
        await call.write(flood(1))
        await read(call)
    fifth = agents.WatchCredentials()
    await fifth.write(flood(1))
    assert await end_of(fifth) == (Code.RESOURCE_EXHAUSTED, "too_many_requests")
    await ban(server, agent)
    for call in calls:
        assert await end_of(call) == (Code.PERMISSION_DENIED, "agent_banned")
