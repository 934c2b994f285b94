"""The services of a real gRPC server: found by name, each behind its layers."""

# ruff: noqa: ARG001, ARG002 - handlers have the shape of generated ones

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from citadel.interceptor import Handler, WrappingInterceptor
from citadel.services import Services


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


async def refuse(request: Any, context: Any) -> Any:
    await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no key")


REFUSAL: Any = grpc.unary_unary_rpc_method_handler(refuse)
KEY = (("key", "one"),)


def has_no_key(details: Any) -> bool:
    return ("key", "one") not in [tuple(each) for each in details.invocation_metadata or ()]


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
async def asked(tmp_path: Path, notes: list[str]) -> AsyncIterator[tuple[Noting, aio.Channel]]:
    outer, inner = Noting("outer", notes), Noting("inner", notes)
    server = aio.server()
    services: Any = Services(outer, inner, guard=lambda details: REFUSAL if has_no_key(details) else None)
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(), services)
    server.add_generic_rpc_handlers((services,))
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
        answer = await stub.Check(health_pb2.HealthCheckRequest(), metadata=KEY)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert notes == ["into outer", "into inner", "out of inner", "out of outer"] * 3
    assert outer.wrapped == ["/grpc.health.v1.Health/Check"]


async def test_a_method_that_there_is_not_is_none_of_theirs(asked: tuple[Noting, aio.Channel]) -> None:
    outer, channel = asked
    for method in ("/grpc.health.v1.Health/Other", "/other.Service/Check"):
        with pytest.raises(aio.AioRpcError) as refused:
            await channel.unary_unary(method)(b"", metadata=KEY)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert outer.wrapped == []


async def test_the_guard_is_asked_at_each_call_also_of_what_there_is_not(
    asked: tuple[Noting, aio.Channel], notes: list[str]
) -> None:
    _, channel = asked
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    assert await check(b"", metadata=KEY)
    assert notes
    notes.clear()
    for call in (check, channel.unary_unary("/grpc.health.v1.Health/Other")):
        with pytest.raises(aio.AioRpcError) as refused:
            await call(b"", metadata=(("key", "two"),))
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert notes == []
