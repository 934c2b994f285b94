"""Several interceptors as one, and services that are found by name, on a real gRPC server."""

# ruff: noqa: ARG002 - handlers have the shape of generated ones

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from citadel.by_name import ByName
from citadel.interceptor import Handler, Layers, WrappingInterceptor


class Noting(WrappingInterceptor):
    """Notes each call on its way in and out."""

    def __init__(self, name: str, notes: list[str]) -> None:
        super().__init__()
        self._name = name
        self._notes = notes
        self.wrapped: list[str] = []

    def wrap(self, method: str, handler: Any) -> Handler:
        self.wrapped.append(method)
        return super().wrap(method, handler)

    def unary(self, method: str, behaviour: Any) -> Callable[[Any, Any], Awaitable[Any]]:
        async def call(request: Any, context: Any) -> Any:
            self._notes.append(f"into {self._name}")
            answer = await behaviour(request, context)
            self._notes.append(f"out of {self._name}")
            return answer

        return call

    def streaming(self, method: str, behaviour: Any) -> Callable[[Any, Any], AsyncIterator[Any]]:
        raise NotImplementedError


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
async def asked(tmp_path: Path, notes: list[str]) -> AsyncIterator[tuple[Noting, aio.Channel]]:
    outer, inner = Noting("outer", notes), Noting("inner", notes)
    server = aio.server(interceptors=[Layers(outer, inner)])
    services: Any = ByName(server)
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(), services)
    server.add_insecure_port(f"unix:{tmp_path}/s")
    await server.start()
    async with aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
        yield outer, channel
    await server.stop(None)


async def test_layers_go_from_the_outside_in_and_each_handler_is_wrapped_once(
    asked: tuple[Noting, aio.Channel], notes: list[str]
) -> None:
    outer, channel = asked
    stub: Any = health_pb2_grpc.HealthStub(channel)
    for _ in range(3):
        answer = await stub.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert notes == ["into outer", "into inner", "out of inner", "out of outer"] * 3
    assert outer.wrapped == ["/grpc.health.v1.Health/Check"]


async def test_a_method_that_there_is_not_is_none_of_theirs(asked: tuple[Noting, aio.Channel]) -> None:
    outer, channel = asked
    for method in ("/grpc.health.v1.Health/Other", "/other.Service/Check"):
        with pytest.raises(aio.AioRpcError) as refused:
            await channel.unary_unary(method)(b"")
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert outer.wrapped == []
