"""What both processes measure alike, on a real gRPC server."""

# ruff: noqa: ARG002, N802 - handlers have the shape of generated ones

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from citadel.errors import NotFound, Reason
from citadel.health import HealthBoard
from citadel.metrics import CallMeter, RefusalCollector, new_registry
from citadel.probes import Readiness
from citadel.rpc import ErrorBorder
from citadel.tally import Tally
from tests.clock import FakeClock

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Echo:
    """Four ways for a call to end."""

    async def Fine(self, request: bytes, context: Any) -> bytes:
        return request

    async def Refused(self, request: bytes, context: Any) -> bytes:
        raise NotFound(Reason.ENTRY_NOT_FOUND, "nothing")

    async def Broken(self, request: bytes, context: Any) -> bytes:
        raise RuntimeError

    async def Endless(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield request
        await asyncio.Event().wait()

    async def Counted(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield request


@pytest.fixture
def registry() -> CollectorRegistry:
    return new_registry()


@asynccontextmanager
async def serving(registry: CollectorRegistry, folder: Path) -> AsyncIterator[aio.Channel]:
    echo = Echo()
    server = aio.server(interceptors=[CallMeter(registry, clock=FakeClock()), ErrorBorder()])
    handlers: dict[str, Any] = {
        name: grpc.unary_unary_rpc_method_handler(getattr(echo, name)) for name in ("Fine", "Refused", "Broken")
    }
    handlers |= {name: grpc.unary_stream_rpc_method_handler(getattr(echo, name)) for name in ("Endless", "Counted")}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.Echo", handlers),))
    server.add_insecure_port(f"unix:{folder / 's'}")
    await server.start()
    async with aio.insecure_channel(f"unix:{folder / 's'}") as channel:
        yield channel
    await server.stop(0)


def handled(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    return {
        (sample.labels["method"], sample.labels["code"]): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "citadel_grpc_server_handled_total"
    }


@pytest.mark.parametrize(("method", "code"), [("Fine", "OK"), ("Refused", "NOT_FOUND"), ("Broken", "INTERNAL")])
async def test_calls_are_counted_by_how_they_ended(
    registry: CollectorRegistry, tmp_path: Path, method: str, code: str
) -> None:
    async with serving(registry, tmp_path) as channel:
        for _ in range(2):
            try:
                await channel.unary_unary(f"/t.Echo/{method}")(b"x")
            except aio.AioRpcError as error:
                assert error.code().name == code  # noqa: PT017 - one of three ends well
    assert handled(registry) == {(f"t.Echo/{method}", code): 2}
    assert registry.get_sample_value("citadel_grpc_server_handling_seconds_count", {"method": f"t.Echo/{method}"}) == 2


async def test_streams_are_counted_when_they_end(registry: CollectorRegistry, tmp_path: Path) -> None:
    async with serving(registry, tmp_path) as channel:
        assert [message async for message in channel.unary_stream("/t.Echo/Counted")(b"x")] == [b"x"]
        endless = channel.unary_stream("/t.Echo/Endless")(b"x")
        assert await endless.read() == b"x"
        assert handled(registry) == {("t.Echo/Counted", "OK"): 1}
        endless.cancel()
        async with asyncio.timeout(5):
            while len(handled(registry)) < 2:
                await asyncio.sleep(0.01)
    assert handled(registry)["t.Echo/Endless", "CANCELLED"] == 1


async def test_methods_that_do_not_exist_make_no_series(registry: CollectorRegistry, tmp_path: Path) -> None:
    async with serving(registry, tmp_path) as channel:
        for number in range(5):
            with pytest.raises(aio.AioRpcError):
                await channel.unary_unary(f"/t.Echo/Made{number}")(b"x")
    assert handled(registry) == {}


async def test_refusals_are_told_by_reason(registry: CollectorRegistry) -> None:
    tally = Tally(clock=FakeClock())
    registry.register(RefusalCollector(tally))
    tally.count_refused("what", NotFound(Reason.ENTRY_NOT_FOUND, "nothing"))
    assert registry.get_sample_value("citadel_refused_total", {"reason": "entry_not_found"}) == 1
    await tally.close()


def test_each_process_has_a_registry_of_its_own() -> None:
    first, second = new_registry(), new_registry()
    assert first is not second
    assert any(_names(first))
    assert set(_names(first)) == set(_names(second))


def _names(registry: CollectorRegistry) -> Iterator[str]:
    return (family.name for family in registry.collect())


async def test_health_follows_readiness_until_it_is_drained() -> None:
    clock, now = FakeClock(), {"ready": False}
    board = HealthBoard(lambda: Readiness(ready=now["ready"]), services=("t.Echo",), clock=clock)
    server = aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(board.servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await board.start()
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:

        async def said() -> set[int]:
            stub = health_pb2_grpc.HealthStub(channel)
            answers = [await stub.Check(health_pb2.HealthCheckRequest(service=name)) for name in ("", "t.Echo")]
            return {answer.status for answer in answers}

        assert await said() == {NOT_SERVING}
        now["ready"] = True
        await clock.advance(1)
        assert await said() == {SERVING}
        await board.drain()
        await clock.advance(5)
        assert await said() == {NOT_SERVING}, "although it is still ready"
    await server.stop(0)
