"""The services of a gRPC server: found by the name of the method that is called, each wrapped once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import grpc

from citadel.interceptor import Handler, WrappingInterceptor

Guard: TypeAlias = "Callable[[grpc.HandlerCallDetails], Handler | None]"


def nobody_is_refused(details: grpc.HandlerCallDetails) -> None:
    """A guard that lets every call in."""


class Services(grpc.GenericRpcHandler):
    """Every service of a server, behind `layers`, the outermost first. Generated code takes it for the server.

    `guard` is asked first at each call, and names what answers in place of a method; it can tell by the metadata.

    gRPC's own ways cost a small call a tenth of its time. It asks each interceptor at each call, though what handles a
    method stays the same. And generated code also registers each method by itself, after which an asyncio server waits
    for a call of every registered one apart.
    """

    def __init__(self, *layers: WrappingInterceptor, guard: Guard = nobody_is_refused) -> None:
        self._layers = layers
        self._guard = guard
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._wrapped: dict[str, Handler] = {}

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Add the methods of a service, by name."""
        self._handlers.extend(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """The same methods once more: nothing is to be done."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """What handles a call; None where there is no such method: gRPC answers UNIMPLEMENTED."""
        refusal = self._guard(handler_call_details)
        if refusal is not None:
            return refusal
        method = str(handler_call_details.method)
        known = self._wrapped.get(method)
        if known is not None:
            return known
        found = (handler.service(handler_call_details) for handler in self._handlers)
        handler: Any = next((each for each in found if each is not None), None)
        if handler is None:
            return None
        for layer in reversed(self._layers):
            handler = layer.wrap(method, handler)
        made: Handler = handler
        self._wrapped[method] = made
        return made
