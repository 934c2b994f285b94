"""Who may make a call is asked before its request is read.

gRPC reads a call's single request, up to the limit of its size, before it calls the handler. A caller that never
finishes sending holds that memory for as long as it likes, and nobody has asked yet who it is. On the wire every kind
of call is a stream of requests, so behind a gate a call with a single request is taken as one: first the gate, then the
message, then its handler. Where megabytes are taken, what is read is bounded by its parts as well (`citadel.parts`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

import grpc
from grpc import aio

from citadel.errors import InvalidArgument, Reason
from citadel.interceptor import Handler, WrappingInterceptor, messages_of, reading_with
from citadel.parts import bounded
from citadel.patience import Patience

_PATIENCE: Final = 10.0  # seconds for a request to come in whole


class Gate(Protocol):
    """Decides by what the transport knows of the caller."""

    def admit(self, method: str, context: Any) -> AbstractContextManager[None]:
        """Held until the call has ended. Raises the refusal.

        `method` is `/package.Service/Method`.
        """
        ...


class GateKeeper(WrappingInterceptor):
    """Puts a gate before every method but those in `apart`, whose handlers bound their streams themselves.

    Must stand behind `citadel.rpc.ErrorBorder`.
    """

    def __init__(
        self, gate: Gate, *, apart: Collection[str] = (), most_parts: int | None = None, patience: float = _PATIENCE
    ) -> None:
        """`most_parts` a message may have; None where they need not be counted, since it can have few bytes only."""
        super().__init__()
        self._most_parts = most_parts
        self._gate = gate
        self._apart = frozenset(apart)
        self._patience = Patience(patience)

    def wrap(self, method: str, handler: Any) -> Handler:
        if self._most_parts is not None:
            read = bounded(method, handler.request_deserializer, most=self._most_parts)
            handler = reading_with(handler, read)
        if method in self._apart:
            return handler  # type: ignore[no-any-return]  # grpcio's handlers are untyped here
        if handler.request_streaming:
            return super().wrap(method, handler)
        make: Any = grpc.stream_unary_rpc_method_handler
        behaviour: Any = self._read_then_answer(method, handler.unary_unary)
        if handler.response_streaming:
            make = grpc.stream_stream_rpc_method_handler
            behaviour = self._read_then_stream(method, handler.unary_stream)
        made: Handler = make(behaviour, handler.request_deserializer, handler.response_serializer)
        return made

    def unary(self, method: str, behaviour: Any) -> Callable[[Any, Any], Awaitable[Any]]:
        async def call(requests: AsyncIterator[Any], context: Any) -> Any:
            with self._gate.admit(method, context):
                return await behaviour(requests, context)

        return call

    def streaming(self, method: str, behaviour: Any) -> Callable[[Any, Any], AsyncIterator[Any]]:
        async def call(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            with self._gate.admit(method, context):
                async for message in messages_of(behaviour, requests, context):
                    yield message

        return call

    def _read_then_answer(self, method: str, behaviour: Any) -> Callable[[Any, Any], Awaitable[Any]]:
        async def call(_requests: AsyncIterator[Any], context: Any) -> Any:
            with self._gate.admit(method, context):
                return await behaviour(await self._only(context), context)

        return call

    def _read_then_stream(self, method: str, behaviour: Any) -> Callable[[Any, Any], AsyncIterator[Any]]:
        async def call(_requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            with self._gate.admit(method, context):
                async for message in messages_of(behaviour, await self._only(context), context):
                    yield message

        return call

    async def _only(self, context: Any) -> Any:
        try:
            request = await self._patience.wait(context.read())
        except TimeoutError:
            raise _malformed(f"the request did not come in within {self._patience.seconds:g} seconds") from None
        if request is aio.EOF:
            raise _malformed("the call has no request")
        return request


def _malformed(why: str) -> InvalidArgument:
    return InvalidArgument(Reason.REQUEST_MALFORMED, why)
