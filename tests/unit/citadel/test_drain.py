"""Streams of a process that stops, as their callers see them end."""

# ruff: noqa: ARG002 - handlers have the shape of generated ones

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from citadel.drain import StreamDrain
from citadel.rpc import ErrorBorder


class Handlers:
    """Streams that never end by themselves; `ended` says which were let go in order."""

    def __init__(self) -> None:
        self.ended: list[bytes] = []

    async def wait(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            yield request
            await asyncio.Event().wait()
        finally:
            self.ended.append(request)

    async def talk(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request


@asynccontextmanager
async def serving(folder: Path, handlers: Handlers, drain: StreamDrain) -> AsyncIterator[aio.Channel]:
    server = aio.server(interceptors=[drain, ErrorBorder()])
    methods: dict[str, Any] = {
        "Wait": grpc.unary_stream_rpc_method_handler(handlers.wait),
        "Talk": grpc.stream_stream_rpc_method_handler(handlers.talk),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", methods),))
    server.add_insecure_port(f"unix:{folder / 's'}")
    await server.start()
    async with aio.insecure_channel(f"unix:{folder / 's'}") as channel:
        yield channel
    await server.stop(0)


async def test_open_streams_end_with_ok_and_their_handlers_clean_up(tmp_path: Path) -> None:
    handlers, drain = Handlers(), StreamDrain()
    async with serving(tmp_path, handlers, drain) as channel:
        waits = [channel.unary_stream("/t.T/Wait")(b"%d" % number) for number in range(3)]
        assert [await wait.read() for wait in waits] == [b"0", b"1", b"2"]
        talk = channel.stream_stream("/t.T/Talk")()
        await talk.write(b"hello")
        assert await talk.read() == b"hello"
        await asyncio.sleep(0)
        drain.end_all()
        for call in (*waits, talk):
            assert await asyncio.wait_for(call.read(), 5) is aio.EOF
            assert await call.code() is grpc.StatusCode.OK
    assert sorted(handlers.ended) == [b"0", b"1", b"2"]


async def test_a_stream_that_is_opened_later_ends_at_once(tmp_path: Path) -> None:
    drain = StreamDrain()
    async with serving(tmp_path, Handlers(), drain) as channel:
        drain.end_all()
        call = channel.unary_stream("/t.T/Wait")(b"x")
        assert await asyncio.wait_for(call.read(), 5) is aio.EOF
        assert await call.code() is grpc.StatusCode.OK


async def test_a_caller_that_goes_away_is_let_go(tmp_path: Path) -> None:
    handlers, drain = Handlers(), StreamDrain()
    async with serving(tmp_path, handlers, drain) as channel:
        call = channel.unary_stream("/t.T/Wait")(b"x")
        assert await call.read() == b"x"
        call.cancel()
        async with asyncio.timeout(5):
            while not handlers.ended:
                await asyncio.sleep(0.01)
        assert drain._tasks == set()
