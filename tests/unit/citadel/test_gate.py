"""A gate before a request is read: on a real gRPC server, with clients that never finish."""

# ruff: noqa: ARG002, N802 - handlers have the shape of generated ones

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc import aio

from citadel._wire import agent_api_pb2 as pb
from citadel._wire import agent_api_pb2_grpc
from citadel.errors import CitadelError, PermissionDenied, Reason
from citadel.gate import GateKeeper
from citadel.in_flight import InFlight
from citadel.rpc import ErrorBorder, from_rpc_error

SIGN, SYNC = "/citadel.v1.AgentApi/SignX509Svids", "/citadel.v1.AgentApi/Sync"


class Door:
    """A gate that can be shut, with room for two."""

    def __init__(self) -> None:
        self.is_open = True
        self.calls = InFlight(most_of_one=2, what="calls")

    @contextmanager
    def admit(self, method: str, context: Any) -> Iterator[None]:
        if not self.is_open:
            raise PermissionDenied(Reason.CALLER_NOT_ALLOWED, f"{method} is not for you")
        with self.calls.one("you"):
            yield


class Service(agent_api_pb2_grpc.AgentApiServicer):
    def __init__(self) -> None:
        self.seen: list[pb.SignX509SvidsRequest] = []
        self.may_answer = asyncio.Event()

    async def SignX509Svids(self, request: pb.SignX509SvidsRequest, context: Any) -> pb.SignX509SvidsResponse:
        self.seen.append(request)
        await self.may_answer.wait()
        return pb.SignX509SvidsResponse()

    async def Sync(self, request_iterator: Any, context: Any) -> AsyncIterator[pb.Update]:
        async for _ in request_iterator:
            yield pb.Update(revision=7)


@asynccontextmanager
async def serving(folder: Path, door: Door, *, patience: float = 10.0) -> AsyncIterator[tuple[Service, aio.Channel]]:
    service = Service()
    server = aio.server(
        interceptors=[ErrorBorder(), GateKeeper(door, apart=[SYNC], most_parts=30_000, patience=patience)]
    )
    agent_api_pb2_grpc.add_AgentApiServicer_to_server(service, server)
    server.add_insecure_port(f"unix:{folder}/s")
    await server.start()
    async with aio.insecure_channel(f"unix:{folder}/s") as channel:
        yield service, channel
    await server.stop(None)


async def refusal(call: Any) -> CitadelError:
    with pytest.raises(aio.AioRpcError) as refused:
        await call
    return from_rpc_error(refused.value)


async def test_who_is_not_let_in_is_told_before_its_request_is_there(tmp_path: Path) -> None:
    door = Door()
    door.is_open = False
    async with serving(tmp_path, door) as (service, channel):
        never_sent = channel.stream_unary(SIGN)()
        assert (await refusal(never_sent)).reason is Reason.CALLER_NOT_ALLOWED
    assert service.seen == []


async def test_a_request_that_does_not_come_in_is_not_waited_for(tmp_path: Path) -> None:
    door = Door()
    async with serving(tmp_path, door, patience=0.1) as (service, channel):
        refused = await refusal(channel.stream_unary(SIGN)())
        assert refused.reason is Reason.REQUEST_MALFORMED
        assert "within 0.1 seconds" in refused.message
        service.may_answer.set()
        for _ in range(3):  # and its place is free again
            await agent_api_pb2_grpc.AgentApiStub(channel).SignX509Svids(pb.SignX509SvidsRequest())  # type: ignore[misc]


async def test_a_place_is_held_until_the_answer(tmp_path: Path) -> None:
    door = Door()
    async with serving(tmp_path, door) as (service, channel):
        sign = channel.unary_unary(SIGN, response_deserializer=pb.SignX509SvidsResponse.FromString)
        first, second = sign(b""), sign(b"")
        while len(service.seen) < 2:
            await asyncio.sleep(0.01)
        assert (await refusal(sign(b""))).reason is Reason.TOO_MANY_REQUESTS
        service.may_answer.set()
        assert await asyncio.gather(first, second) == [pb.SignX509SvidsResponse()] * 2
        assert await sign(b"") == pb.SignX509SvidsResponse()


async def test_bytes_that_are_no_message_are_refused_like_any_other_mistake(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path, Door()) as (_, channel):
        assert (await refusal(channel.unary_unary(SIGN)(b"\xff\xff"))).reason is Reason.REQUEST_MALFORMED
    assert caplog.records == []


async def test_a_call_without_a_request_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, Door()) as (_, channel):
        call = channel.stream_unary(SIGN)()
        await call.done_writing()
        assert (await refusal(call)).reason is Reason.REQUEST_MALFORMED


async def test_streams_that_bound_themselves_are_apart(tmp_path: Path) -> None:
    door = Door()
    door.is_open = False
    async with serving(tmp_path, door) as (_, channel):
        call = agent_api_pb2_grpc.AgentApiStub(channel).Sync()
        await call.write(pb.AgentMessage())
        assert (await call.read()).revision == 7  # type: ignore[union-attr]
        await call.done_writing()


@pytest.mark.parametrize("method", [SIGN, SYNC])
async def test_a_message_of_too_many_parts_is_refused_by_its_reason(
    tmp_path: Path, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path, Door()) as (service, channel):
        service.may_answer.set()
        stream = channel.stream_stream(method)()
        await stream.write(b"\x0a\x00" * 30_001 if method == SIGN else b"\x1a\x80\x80\x04" + b"\x12\x00" * 32_768)
        refused = await refusal(stream.read())
        assert (refused.reason, service.seen) == (Reason.REQUEST_MALFORMED, [])
        assert "30000 parts" in refused.message
    assert caplog.records == []
