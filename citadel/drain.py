"""Ending open streams well when a process stops: with the status OK instead of a cut connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from grpc import aio

from citadel.rpc import messages_of


class StreamDrain(aio.ServerInterceptor):
    """Lets every stream of answers end when `end_all` is called, whatever its handler waits for.

    Only for a server whose streams never end by themselves: a list that is cut short with OK would look whole. A
    handler that is just handing a message to gRPC is cut instead. Must stand before `citadel.rpc.ErrorBorder`. Lives on
    one event loop.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_ending = False

    def end_all(self) -> None:
        """End what is open, and whatever is opened from now on."""
        self._is_ending = True
        for task in self._tasks:
            task.cancel()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler: Any = await continuation(handler_call_details)
        if handler is None or not handler.response_streaming:
            return handler  # type: ignore[no-any-return]  # grpcio's handlers are untyped here
        behaviour = handler.stream_stream or handler.unary_stream
        make = (
            grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
        )
        made: Any = make(self._ending_well(behaviour), handler.request_deserializer, handler.response_serializer)
        return made  # type: ignore[no-any-return]  # as above

    def _ending_well(self, behaviour: Any) -> Callable[[Any, Any], AsyncIterator[Any]]:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            task = asyncio.current_task()
            if task is None or self._is_ending:
                return
            self._tasks.add(task)
            try:
                async for message in messages_of(behaviour, request, context):
                    yield message
            except asyncio.CancelledError:
                if not self._is_ending:
                    raise  # the caller has gone
                task.uncancel()
            finally:
                self._tasks.discard(task)

        return call
