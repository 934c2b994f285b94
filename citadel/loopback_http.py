"""A small HTTP listener on a loopback address, inside the running event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from citadel.config.types import HostPort
from citadel.errors import InvalidArgument, Reason

_MOST_CONNECTIONS: Final = 64
_PATIENCE: Final = 5.0  # seconds until a connection's first request


class LoopbackHttp:
    """Serves `app` from `start` to `close`; port 0 takes a free port."""

    def __init__(self, app: Starlette, address: HostPort) -> None:
        """Raises `InvalidArgument` (`config_invalid`) for an address that is not a loopback IP address."""
        _check_loopback(address)
        self._app = app
        self._wanted = address
        self._socket: socket.socket | None = None
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._open: dict[_Impatient, None] = {}  # in the order of their coming

    @property
    def address(self) -> HostPort:
        """Where it listens; before `start`, where it was asked to."""
        if self._socket is None:
            return self._wanted
        return HostPort(self._wanted.host, self._socket.getsockname()[1])

    async def start(self) -> None:
        """Listen. Raises `InvalidArgument` (`config_invalid`) where the address is taken."""
        self._socket = _listen(self._wanted)
        config = uvicorn.Config(
            self._app,
            log_config=None,  # `citadel.logs` owns the handlers
            log_level="warning",  # its start and stop are ours to tell
            access_log=False,
            lifespan="off",
            server_header=False,
            ws="none",
            http=partial(_Impatient, self._open),  # type: ignore[arg-type]  # called as the class would be
            timeout_keep_alive=2,
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]), name=f"http {self.address}")

    async def close(self) -> None:
        """Stop listening and end open connections."""
        if self._server is None or self._task is None or self._socket is None:
            return
        self._server.should_exit = True
        try:
            await self._task
        finally:
            self._socket.close()
            self._server = self._task = self._socket = None


class _Impatient(H11Protocol):
    """Ends a connection that does not ask in time, and the oldest of too many: any local process can open them.

    uvicorn itself waits for a first request for ever.
    """

    def __init__(self, others: dict[_Impatient, None], *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._others = others

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # narrowed by uvicorn
        super().connection_made(transport)
        self._others[self] = None
        if len(self._others) > _MOST_CONNECTIONS:
            next(iter(self._others)).transport.close()
        self.loop.call_later(_PATIENCE, self._end_unless_asked)

    def connection_lost(self, exc: Exception | None) -> None:
        self._others.pop(self, None)
        super().connection_lost(exc)

    def _end_unless_asked(self) -> None:
        if self.cycle is None:
            self.transport.close()


class _Server(uvicorn.Server):
    """Signals belong to the process that this is a part of."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _check_loopback(address: HostPort) -> None:
    if not address.is_loopback:
        raise InvalidArgument(
            Reason.CONFIG_INVALID,
            f"cannot listen on {address}: not a loopback address",
            fix="write 127.0.0.1:port or [::1]:port",
        )


def _listen(address: HostPort) -> socket.socket:
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
