"""Ending open streams well when a process stops: with the status OK instead of a cut connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from citadel.interceptor import WrappingInterceptor, messages_of


class StreamDrain(WrappingInterceptor):
    """Lets every stream of answers end when `end_all` is called, whatever its handler waits for.

    Only for a server whose streams never end by themselves: a list that is cut short with OK would look whole. A
    handler that is just handing a message to gRPC is cut instead. Must stand before `citadel.rpc.ErrorBorder`. Lives on
    one event loop.
    """

    def __init__(self) -> None:
        super().__init__()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_ending = False

    def end_all(self) -> None:
        """End what is open, and whatever is opened from now on."""
        self._is_ending = True
        for task in self._tasks:
            task.cancel()

    def unary(self, method: str, behaviour: Any) -> Callable[[Any, Any], Awaitable[Any]]:  # noqa: ARG002 - the port's form
        return behaviour  # type: ignore[no-any-return]  # grpcio's handlers are untyped here

    def streaming(self, method: str, behaviour: Any) -> Callable[[Any, Any], AsyncIterator[Any]]:  # noqa: ARG002 - as above
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
