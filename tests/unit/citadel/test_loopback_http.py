"""A small HTTP listener on loopback."""

from __future__ import annotations

import asyncio
import time

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from citadel.config.types import HostPort
from citadel.loopback_http import LoopbackHttp

DELAYED_ACK = 0.04  # seconds


async def test_an_answer_waits_for_no_delayed_acknowledgement() -> None:
    async def hello(_: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    server = LoopbackHttp(Starlette(routes=[Route("/", hello)]), HostPort("127.0.0.1", 0))
    await server.start()
    reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
    took = []
    for _ in range(10):
        begun = time.monotonic()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"hello")
        took.append(time.monotonic() - begun)
    writer.close()
    await server.close()
    # The first answer never waits, and one may be slow for other reasons: but not all the others.
    assert min(took[1:]) < DELAYED_ACK / 2
