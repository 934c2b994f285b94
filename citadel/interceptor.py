"""What Citadel's server interceptors have in common: each wraps what handles a method, once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from inspect import isawaitable
from typing import Any, Final, TypeAlias

import grpc
from grpc import aio

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class WrappingInterceptor(aio.ServerInterceptor):
    """Wraps every handler by its kind of answer, and keeps what it made: gRPC asks at each call."""

    def __init__(self) -> None:
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None:  # no such method: gRPC answers UNIMPLEMENTED
            return None
        method = str(handler_call_details.method)
        known, wrapped = self._wrapped.get(method, (None, None))
        if known is not handler or wrapped is None:
            wrapped = self.wrap(method, handler)
            self._wrapped[method] = (handler, wrapped)
        return wrapped

    def wrap(self, method: str, handler: Any) -> Handler:
        """The handler that gRPC gets for `handler`: of the same kind, with what `unary` or `streaming` gives."""
        behaviour = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        wrapped: Any = (self.streaming if handler.response_streaming else self.unary)(method, behaviour)
        make = _MAKERS[handler.request_streaming, handler.response_streaming]
        made: Handler = make(wrapped, handler.request_deserializer, handler.response_serializer)
        return made

    @abstractmethod
    def unary(self, method: str, behaviour: Any) -> Callable[[Any, Any], Awaitable[Any]]:
        """What answers once instead of `behaviour`. `method` is `/package.Service/Method`."""

    @abstractmethod
    def streaming(self, method: str, behaviour: Any) -> Callable[[Any, Any], AsyncIterator[Any]]:
        """What answers with a stream instead of `behaviour`, whose messages `messages_of` gives."""


def reading_with(handler: Any, read: Any) -> Handler:
    """As `handler`, with requests that `read` makes of their bytes."""
    behaviour = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    made: Handler = _MAKERS[handler.request_streaming, handler.response_streaming](
        behaviour, read, handler.response_serializer
    )
    return made


def messages_of(behaviour: Any, request: Any, context: Any) -> AsyncIterator[Any]:
    """What a streaming handler answers. Some, such as gRPC's own health, write through `context` and yield nothing."""
    answers: Any = behaviour(request, context)
    return _none_after(answers) if isawaitable(answers) else answers  # itself: a stream holds what stands in between


async def _none_after(work: Awaitable[Any]) -> AsyncIterator[Any]:
    await work
    nothing: tuple[Any, ...] = ()
    for message in nothing:
        yield message


_MAKERS: Final[dict[tuple[bool, bool], Any]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
