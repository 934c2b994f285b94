"""The agent's stream for credentials, with a server that is slow, wrong, or away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from grpc import aio

from citadel._wire import agent_api_pb2 as pb
from citadel._wire import agent_api_pb2_grpc
from citadel.clock import SystemClock
from citadel.errors import CitadelError, PermissionDenied, Reason
from citadel.rpc import ErrorBorder
from sds.credentials.book import MOST_OF_ONE, CredentialBook
from sds.credentials.watching import CredentialWatch
from sds.holdings import HoldingsFeed
from tests.secrets_of_gateways import CA, key_pem, served
from tests.unit.sds.holding import entry, holdings
from tests.unit.sds.node import eventually

GATEWAY = entry("gw", origin="k8s:main/shop/gw-1")
WEB, AUTHORITIES, OTHER = "kubernetes://web", "kubernetes://web-cacert", "kubernetes://other"
CERT = served()
GOOD = pb.Credential(certificate_chain=CERT.pem, private_key=key_pem(CERT))


def update(name: str = WEB, **state: Any) -> pb.CredentialUpdate:
    return pb.CredentialUpdate(entry_id="gw", name=name, **state)


def refusal(reason: str) -> pb.Refusal:
    return pb.Refusal(code="NOT_FOUND", reason=reason, message="no")


class FakeServer(agent_api_pb2_grpc.AgentApiServicer):
    """Notes what is wanted, and says what it is told to."""

    def __init__(self) -> None:
        self.streams: list[list[set[str]]] = []
        self.says: asyncio.Queue[pb.CredentialUpdate | None] = asyncio.Queue()
        self.refusal: CitadelError | None = None

    async def WatchCredentials(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[pb.CredentialUpdate]:  # noqa: N802, ARG002
        wanted: list[set[str]] = []
        self.streams.append(wanted)
        if self.refusal is not None:
            raise self.refusal

        async def read() -> None:
            async for message in requests:
                wanted.append({each.name for each in message.wanted})  # noqa: PERF401 - as they come

        reading = asyncio.create_task(read())
        try:
            while (said := await self.says.get()) is not None:
                yield said
        finally:
            reading.cancel()


@dataclass
class Bench:
    book: CredentialBook
    api: FakeServer
    server: aio.Server
    address: str
    holder: asyncio.Event = field(default_factory=asyncio.Event)

    def ask(self, *names: str) -> Any:
        return self.book.ask(self.holder, GATEWAY, names, is_known=True)

    async def heard(self, name: str, **expected: Any) -> None:
        await eventually(lambda: all(getattr(self.ask(name)[name], key) == value for key, value in expected.items()))

    async def has(self, name: str) -> None:
        await eventually(lambda: self.ask(*self.names)[name].resource is not None)

    @property
    def names(self) -> list[str]:
        return [name for _, name in self.book.wanted]


async def serve(api: FakeServer, address: str) -> aio.Server:
    server = aio.server(interceptors=[ErrorBorder()])
    agent_api_pb2_grpc.add_AgentApiServicer_to_server(api, server)
    server.add_insecure_port(address)
    await server.start()
    return server


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    address, api, feed = f"unix:{tmp_path / 'server.sock'}", FakeServer(), HoldingsFeed()
    feed.publish(holdings([GATEWAY]))
    book = CredentialBook(feed=feed, clock=SystemClock(), on_refusal=lambda _, __: None)
    server = await serve(api, address)
    options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 100)]
    async with aio.insecure_channel(address, options=options) as channel:
        stub = agent_api_pb2_grpc.AgentApiStub(channel)
        watch = CredentialWatch(book, api=lambda: stub, draw=lambda: 0.99, clock=SystemClock())
        running = asyncio.create_task(watch.run())
        yield Bench(book, api, server, address)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    await server.stop(0)


async def test_nothing_is_asked_before_something_is_wanted_and_then_all_at_each_change(bench: Bench) -> None:
    await asyncio.sleep(0.05)
    assert bench.api.streams == []
    bench.ask(WEB)
    await eventually(lambda: bench.api.streams == [[{WEB}]])
    bench.ask(WEB, AUTHORITIES)
    await eventually(lambda: bench.api.streams[-1][-1] == {WEB, AUTHORITIES})
    bench.api.says.put_nowait(update(good=GOOD))
    bench.api.says.put_nowait(update(AUTHORITIES, good=pb.Credential(trusted_ca=CA.pem)))
    await bench.has(WEB)
    await bench.has(AUTHORITIES)
    assert len(bench.api.streams) == 1


async def test_what_was_forgotten_and_is_wanted_again_is_told_anew(bench: Bench) -> None:
    """Also where that was so soon that the server has heard of neither."""
    bench.ask(WEB, OTHER)
    await eventually(lambda: bench.api.streams == [[{WEB, OTHER}]])
    others = [f"kubernetes://n{number}" for number in range(MOST_OF_ONE)]
    bench.ask(*others[2:])
    bench.ask(*others)  # takes the places of those that nobody wants any more
    bench.book.leave(bench.holder)
    bench.ask(WEB)
    await eventually(lambda: bench.api.streams[-1][-1] >= {WEB, others[-1]})
    assert not {WEB, OTHER} & bench.api.streams[-1][-2]
    assert len(bench.api.streams) == 1


async def test_a_pod_that_wants_others_all_the_time_neither_ends_the_stream_nor_holds_up_another(bench: Bench) -> None:
    def new() -> int:
        stream = bench.api.streams[0] if bench.api.streams else []
        return sum(len(now - before) for before, now in pairwise([set[str](), *stream]))

    async def told(most: int) -> None:
        await eventually(lambda: new() >= most)

    began = time.monotonic()
    for number in range(8):
        bench.book.leave(bench.holder)
        bench.ask(*(f"kubernetes://{number}-{each}" for each in range(MOST_OF_ONE)))
        await told(min(1900, (number + 1) * MOST_OF_ONE))
    bench.book.ask(asyncio.Event(), entry("gx", origin="k8s:main/shop/gw-2"), [WEB], is_known=True)
    await eventually(lambda: WEB in bench.api.streams[0][-1])
    await told(new() + 10)  # the others come in turn
    assert new() <= 1900 + 40 * (time.monotonic() - began) + 1
    assert len(bench.api.streams) == 1
    await bench.server.stop(0)
    again = await serve(bench.api, bench.address)
    await eventually(lambda: len(bench.api.streams) > 1 and bool(bench.api.streams[1]))
    assert len(bench.api.streams[1][0]) == MOST_OF_ONE + 1  # to a server that has counted nothing yet
    await again.stop(0)


@pytest.mark.invariant(5)
async def test_what_the_server_says_badly_takes_nothing_away(bench: Bench) -> None:
    bench.ask(WEB)
    bench.api.says.put_nowait(update(good=GOOD))
    await bench.has(WEB)
    good = bench.ask(WEB)[WEB].resource
    bench.api.says.put_nowait(update(OTHER, good=GOOD))  # which nobody wants
    bench.api.says.put_nowait(update(good=pb.Credential(certificate_chain=CERT.pem, private_key=b"broken")))
    await eventually(lambda: "cannot be served" in bench.ask(WEB)[WEB].why)
    bench.api.says.put_nowait(update(refused=refusal("credential_invalid")))
    await bench.heard(WEB, why="no (credential_invalid)", resource=good)
    bench.api.says.put_nowait(update(good=GOOD, behind=refusal("credential_invalid")))
    await bench.heard(WEB, resource=good, is_ruled_out=False)
    bench.api.says.put_nowait(update(withdrawn=pb.Withdrawn(why=refusal("credential_not_allowed"))))
    await bench.heard(WEB, resource=None, is_ruled_out=True, why="no (credential_not_allowed)")
    assert bench.book.wanted == (("gw", WEB),)


@pytest.mark.invariant(5)
async def test_a_server_that_is_away_is_asked_again_and_what_is_there_stays(bench: Bench) -> None:
    bench.ask(WEB)
    bench.api.says.put_nowait(update(good=GOOD))
    await bench.has(WEB)
    await bench.server.stop(0)
    bench.ask(WEB, OTHER)
    await eventually(lambda: "server_unreachable" in bench.ask(WEB, OTHER)[OTHER].why)
    assert bench.ask(WEB, OTHER)[WEB].resource is not None
    bench.api.says = asyncio.Queue()
    again = await serve(bench.api, bench.address)
    await eventually(lambda: bench.api.streams[-1] == [{WEB, OTHER}])
    bench.api.says.put_nowait(update(OTHER, good=GOOD))
    await eventually(lambda: bench.ask(WEB, OTHER)[OTHER].resource is not None)
    await again.stop(0)


async def test_a_server_that_refuses_is_not_asked_in_a_loop(bench: Bench) -> None:
    bench.api.refusal = PermissionDenied(Reason.AGENT_BANNED, "banned")
    bench.ask(WEB)
    await eventually(lambda: "agent_banned" in bench.ask(WEB)[WEB].why)
    await asyncio.sleep(0.3)
    assert len(bench.api.streams) == 1
