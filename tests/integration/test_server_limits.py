"""What strangers and members can cost the server: bounded by settings, and nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import grpc
import pytest
from grpc import StatusCode as Code
from grpc import aio

from citadel._wire import admin_pb2, bootstrap_pb2
from citadel._wire import agent_api_pb2 as pb
from citadel.config.types import HostPort
from tests.csrs import csr, new_key
from tests.servers import HELLO, Member, Server, reason_of, refusal, running_server, server_settings, sign, synced

pytestmark = pytest.mark.integration

_HUNDRED_MEGABYTES = b"x" * 100_000_000
_BUNDLE = bootstrap_pb2.GetBundleRequest()
_SIGN, _NOTHING = "/citadel.v1.AgentApi/SignX509Svids", pb.SignX509SvidsRequest()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running_server(server_settings(tmp_path, connections={"handshake": "3s", "calls": 10})) as running:
        yield running


async def _is_too_large(call: aio.UnaryUnaryCall) -> None:
    with pytest.raises(aio.AioRpcError) as refused:
        await call
    # RESOURCE_EXHAUSTED where the server could say so before the connection was given up
    assert refused.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)


async def test_a_hundred_megabytes_are_refused_at_every_door_and_members_go_on(server: Server) -> None:
    agent = await server.join("node-1")
    entry = await server.entry("/app", agent)
    mine = server.agents(agent)

    async def work() -> int:
        done = 0
        while not stop.is_set():
            (result,) = await sign(mine, (entry.id, csr()))
            assert result.HasField("svid")
            done += 1
        return done

    stop = asyncio.Event()
    working = asyncio.create_task(work())
    await _is_too_large(server.bootstrap().Join(bootstrap_pb2.JoinRequest(token="t", csr=_HUNDRED_MEGABYTES)))
    large = pb.SignX509SvidsRequest(requests=[pb.X509SvidRequest(entry_id=entry.id, csr=_HUNDRED_MEGABYTES)])
    await _is_too_large(server.agents(agent).SignX509Svids(large))
    await _is_too_large(server.admin().GetEntry(admin_pb2.GetEntryRequest(id="x" * 100_000_000)))
    stop.set()
    assert await working > 0


async def test_connections_that_never_shake_hands_are_dropped(server: Server) -> None:
    halves = [await _half_open(address) for address in _both(server) for _ in range(100)]
    started = time.monotonic()
    assert (await server.bootstrap().GetBundle(_BUNDLE)).bundle.json == server.published
    assert time.monotonic() - started < 3, "others are served while the halves are open"
    async with asyncio.timeout(10):
        for reader, writer in halves:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()


async def test_what_never_reads_and_never_says_hello_harms_nobody(server: Server) -> None:
    silent, busy = await server.join("silent"), await server.join("busy")
    unheard = [server.agents(silent).Sync() for _ in range(10)]  # as many as one connection may have
    async with synced(server, busy) as stream:
        await stream.next()
        made = await server.entry("/app", busy)
        while made.id not in stream.entries:
            await stream.next()
    assert (await server.status()).entries == 1
    for call in unheard:
        call.cancel()


async def test_a_workload_is_turned_away_at_the_agents_door_before_it_has_sent_anything(server: Server) -> None:
    agent = await server.join("node-1")
    entry = await server.entry("/app", agent)
    key = new_key()
    (result,) = await sign(server.agents(agent), (entry.id, csr(key)))
    workload = Member(key, tuple(result.svid.chain))
    never_sent = server.tls(server.settings.listen.agents, workload).stream_unary(_SIGN)()
    assert await asyncio.wait_for(refusal(never_sent), 5) == (Code.PERMISSION_DENIED, "agent_svid_refused")


async def test_an_agent_may_leave_only_so_many_requests_unfinished(tmp_path: Path) -> None:
    async with running_server(server_settings(tmp_path, limits={"agent_calls": 3})) as server:
        one, other = await server.join("node-1"), await server.join("node-2")
        channel = server.tls(server.settings.listen.agents, one)
        unfinished = [channel.stream_unary(_SIGN)() for _ in range(3)]
        for call in unfinished:
            await call.wait_for_connection()
        while (told := await refusal_or_none(server.agents(one).SignX509Svids(_NOTHING))) is None:
            await asyncio.sleep(0.01)
        assert told == (Code.RESOURCE_EXHAUSTED, "too_many_requests")
        await server.agents(other).SignX509Svids(_NOTHING)
        for call in unfinished:
            call.cancel()


async def test_an_address_may_leave_only_so_many_requests_unfinished_and_agents_go_on(tmp_path: Path) -> None:
    async with running_server(server_settings(tmp_path, limits={"anonymous_calls": 48})) as server:
        agent = await server.join("node-1")
        channel = server.tls(server.settings.listen.bootstrap)
        unfinished = [channel.stream_unary("/citadel.v1.Bootstrap/Join")() for _ in range(3)]  # a sixteenth of 48
        for call in unfinished:
            await call.wait_for_connection()
        while (told := await refusal_or_none(server.bootstrap().GetBundle(_BUNDLE))) is None:
            await asyncio.sleep(0.01)
        assert told == (Code.RESOURCE_EXHAUSTED, "too_many_requests")
        await server.agents(agent).SignX509Svids(_NOTHING)
        for call in unfinished:
            call.cancel()


async def test_millions_of_empty_elements_are_refused_at_once_and_nobody_waits_for_them(server: Server) -> None:
    bad, good = await server.join("node-1"), await server.join("node-2")
    entry = await server.entry("/app", good)
    empty = b"\x12\x00" * (2 << 20)  # reports of streams, and requests for SVIDs by the other number
    streams = b"\x1a\x80\x80\x80\x02" + empty
    channel = server.tls(server.settings.listen.agents, bad)
    for _ in range(3):
        call = channel.stream_stream("/citadel.v1.AgentApi/Sync")()
        await call.write(HELLO.SerializeToString())
        await call.write(streams)
        started = time.monotonic()
        assert await refusal(_to_its_end(call)) == (Code.INVALID_ARGUMENT, "request_malformed")
        (result,) = await sign(server.agents(good), (entry.id, csr()))
        assert result.HasField("svid")
        assert time.monotonic() - started < 3, "it was built, or gone through"
    sign_many = channel.unary_unary(_SIGN)(empty.replace(b"\x12", b"\x0a"))
    assert await refusal(sign_many) == (Code.INVALID_ARGUMENT, "request_malformed")


async def _to_its_end(call: aio.StreamStreamCall) -> None:
    while await call.read() is not aio.EOF:
        pass


async def refusal_or_none(call: Awaitable[object]) -> tuple[Code, str] | None:
    try:
        await call
    except aio.AioRpcError as error:
        return error.code(), reason_of(error)
    return None


def _both(server: Server) -> tuple[HostPort, HostPort]:
    return server.settings.listen.bootstrap, server.settings.listen.agents


async def _half_open(address: HostPort) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(b"\x16\x03\x01")  # a handshake that begins and goes no further
    return reader, writer
