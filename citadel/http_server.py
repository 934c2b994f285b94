"""What the HTTP listeners have in common: uvicorn inside the running event loop, with limits and without a banner."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from citadel.config.types import HostPort
from citadel.errors import InvalidArgument, Reason


def http_config(app: ASGIApp, *, http: Any = "h11", headers: Sequence[tuple[str, str]] = ()) -> uvicorn.Config:
    """How `app` is served; `http` makes the protocol of each connection, and `headers` are in every answer."""
    return uvicorn.Config(
        app,
        log_config=None,  # `citadel.logs` owns the handlers
        log_level="warning",  # its start and stop are ours to tell
        access_log=False,
        lifespan="off",
        server_header=False,
        ws="none",
        http=http,
        headers=list(headers),
        timeout_keep_alive=2,
        timeout_graceful_shutdown=1,
    )


class HttpServer(uvicorn.Server):
    """Signals belong to the process that this is a part of."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class ImpatientHttp(H11Protocol):
    """Ends a connection that does not ask in time. uvicorn itself waits for a first request for ever."""

    def __init__(self, patience: float, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._patience = patience

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # narrowed by uvicorn
        super().connection_made(transport)
        self.loop.call_later(self._patience, self._end_unless_asked)

    def _end_unless_asked(self) -> None:
        if self.cycle is None:
            self.transport.close()


def listen_on(address: HostPort) -> socket.socket:
    """A socket that listens there. Raises `InvalidArgument` (`config_invalid`) where it cannot."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    # Named TCP, asyncio sends what it is given at once: else an answer's second part waits 40 ms for a delayed ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
        listener.listen(64)
        listener.setblocking(False)  # noqa: FBT003 - the standard library takes it so
    except OSError as error:
        listener.close()
        raise InvalidArgument(
            Reason.CONFIG_INVALID, f"cannot listen on {address}: {error.strerror}", fix="choose another port"
        ) from error
    return listener
