"""The stream of an agent: what is pushed to it and how fast, and what it tells."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from citadel._wire import admin_pb2, revocation_pb2, types_pb2
from citadel._wire import agent_api_pb2 as pb
from tests.csrs import csr
from tests.servers import (
    Member,
    Server,
    Stream,
    refusal,
    running_server,
    server_settings,
    sign,
    synced,
)

pytestmark = pytest.mark.integration

Code = grpc.StatusCode


SECONDS_TO_PUSH = 3.0  # pushed, not polled; that it is well under a second is what `make bench` measures


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(5):
        while not await condition():
            await asyncio.sleep(0.01)


async def test_the_first_update_is_a_snapshot_of_what_concerns_the_agent(server: Server, agent: Member) -> None:
    mine, _ = await server.entry("/web", agent), await server.entry("/x", "spiffe://a.test/citadel/agent/node-2")
    async with synced(server, agent) as stream:
        update = await stream.next()
        assert (update.snapshot, update.more, update.revision) == (True, False, 2)
        assert stream.entries == {mine.id: mine}
        assert [(bundle.trust_domain, bundle.json) for bundle in update.bundles] == [("a.test", server.published)]


async def test_a_change_is_pushed_in_well_under_a_second_and_only_to_whom_it_concerns(
    server: Server, agent: Member
) -> None:
    other = await server.join("node-2")
    async with synced(server, agent) as stream, synced(server, other) as elsewhere:
        await stream.next()
        await elsewhere.next()
        begun = time.monotonic()
        entry = await server.entry("/web", agent)
        update = await stream.next()
        assert time.monotonic() - begun < SECONDS_TO_PUSH
        assert (update.snapshot, list(update.entries), len(update.bundles)) == (False, [entry], 0)

        begun = time.monotonic()
        await server.admin().DeleteEntry(admin_pb2.DeleteEntryRequest(id=entry.id))
        update = await stream.next()
        assert time.monotonic() - begun < SECONDS_TO_PUSH
        assert (list(update.removed_entry_ids), update.revision, stream.entries) == ([entry.id], 2, {})

        theirs = await server.entry("/other", other)
        assert list((await elsewhere.next()).entries) == [theirs], "the first change was not told to them"
    (result,) = await sign(server.agents(agent), (entry.id, csr()))
    assert result.refusal.reason == "entry_not_authorized"


async def test_revoked_identities_are_pushed_to_every_agent_until_that_is_lifted(server: Server, agent: Member) -> None:
    other = await server.join("node-2")
    entry = await server.entry("/web", agent)
    (signed,) = await sign(server.agents(agent), (entry.id, csr()))
    revocations = server.revocations()
    async with synced(server, other) as stream:
        assert (await stream.next()).HasField("revoked_identities")
        begun = time.monotonic()
        await revocations.Revoke(revocation_pb2.RevokeRequest(target=signed.svid.spiffe_id, reason="a test"))
        assert await _revoked(stream) == [entry.spiffe_id]
        assert time.monotonic() - begun < SECONDS_TO_PUSH
        async with synced(server, agent) as later:
            assert await _revoked(later) == [entry.spiffe_id]
        lift = revocation_pb2.LiftRevocationRequest(id=entry.spiffe_id, reason="a test")
        await revocations.LiftRevocation(lift)
        assert await _revoked(stream) == []


async def _revoked(stream: Stream) -> list[str]:
    """What the next update says of them that says anything."""
    while not (update := await stream.next()).HasField("revoked_identities"):
        pass
    return list(update.revoked_identities.spiffe_ids)


async def test_many_entries_come_in_parts(server: Server, agent: Member) -> None:
    admin = server.admin()
    wanted = [types_pb2.Entry(spiffe_id=f"spiffe://a.test/w{n}", parent_id=agent.spiffe_id) for n in range(501)]
    for entry in wanted:
        entry.selectors.append("unix:uid:1")
    await asyncio.gather(*(admin.CreateEntry(admin_pb2.CreateEntryRequest(entry=entry)) for entry in wanted))
    async with synced(server, agent) as stream:
        assert (await stream.next()).more
        assert not (await stream.next()).more
        assert {entry.spiffe_id for entry in stream.entries.values()} == {entry.spiffe_id for entry in wanted}


async def test_what_the_agent_says_shows_in_the_status(server: Server, agent: Member) -> None:
    await server.entry("/web", agent)
    assert not (await server.status_of(agent)).connected
    async with synced(server, agent) as stream:
        revision = (await stream.next()).revision
        await stream.say(acknowledge=pb.Acknowledge(revision=revision))
        resource = types_pb2.ResourceReport(
            name="default", state=types_pb2.ResourceReport.REFUSED, version="3", refusal="no such key", serial="0abc"
        )
        report = types_pb2.StreamReport(stream_id="s1", protocol="sds", pid=7, uid=1000, resources=[resource])
        await stream.say(streams=pb.Streams(snapshot=True, reports=[report]))

        async def shows() -> bool:
            found = await server.status_of(agent)
            return found.acknowledged_revision == revision == 1 and list(found.streams) == [report]

        await eventually(shows)
        found = await server.status_of(agent)
        assert (found.connected, found.version) == (True, "1.2.3")
        closed = types_pb2.StreamReport(stream_id="s1", closed=True)
        await stream.say(streams=pb.Streams(reports=[closed]))
        await eventually(lambda: _is(lambda status: not status.streams, server, agent))
    await eventually(lambda: _is(lambda status: not status.connected, server, agent))


async def _is(holds: Callable[[admin_pb2.AgentStatus], bool], server: Server, agent: Member) -> bool:
    return holds(await server.status_of(agent))


@pytest.mark.parametrize(
    "first", [pb.AgentMessage(), pb.AgentMessage(acknowledge=pb.Acknowledge(revision=1))], ids=["empty", "no hello"]
)
async def test_a_stream_that_does_not_begin_with_hello_is_refused(
    server: Server, agent: Member, first: pb.AgentMessage
) -> None:
    got = await refusal(anext(aiter(server.agents(agent).Sync(iter([first])))))
    assert got == (Code.INVALID_ARGUMENT, "request_malformed")


async def test_a_stream_ends_with_the_certificate_that_opened_it(tmp_path: Path) -> None:
    brief = {"agent_lifetime": "2s", "backdate": "0s"}
    async with running_server(server_settings(tmp_path, svids=brief)) as server:
        agent = await server.join("node-1")
        async with synced(server, agent) as stream:
            await stream.next()
            got = await refusal(stream.call.read())
        assert got == (Code.UNAUTHENTICATED, "agent_svid_expired")


async def test_an_entry_that_expires_is_taken_away_by_the_clock_alone(server: Server, agent: Member) -> None:
    expires_at = Timestamp()
    expires_at.FromDatetime(datetime.now(UTC) + timedelta(seconds=3))
    entry = await server.entry("/web", agent, expires_at=expires_at)
    async with synced(server, agent) as stream:
        await stream.next()
        assert list(stream.entries) == [entry.id]
        assert list((await stream.next()).removed_entry_ids) == [entry.id]


async def test_a_re_join_ends_the_stream_of_the_machine_that_was_replaced(server: Server, agent: Member) -> None:
    async with synced(server, agent) as stream:
        await stream.next()
        await server.join("node-1")
        assert await refusal(stream.call.read()) == (Code.PERMISSION_DENIED, "agent_key_mismatch")
