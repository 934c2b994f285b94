"""A small HTTP listener on a loopback address, or where others reach it on purpose, inside the running event loop."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import Any, Final

from starlette.applications import Starlette

from citadel.config.types import HostPort
from citadel.errors import InvalidArgument, Reason
from citadel.http_server import HttpServer, ImpatientHttp, http_config, listen_on

_MOST_CONNECTIONS: Final = 64
_PATIENCE: Final = 5.0  # seconds until a connection's first request


class LoopbackHttp:
    """Serves `app` from `start` to `close`; port 0 takes a free port."""

    def __init__(self, app: Starlette, address: HostPort, *, outside: bool = False) -> None:
        """Raises `InvalidArgument` (`config_invalid`) for what is no loopback IP address, unless `outside`."""
        if not outside:
            _check_loopback(address)
        self._app = app
        self._wanted = address
        self._socket: socket.socket | None = None
        self._server: HttpServer | None = None
        self._task: asyncio.Task[None] | None = None
        self._open: dict[_Crowded, None] = {}  # in the order of their coming

    @property
    def address(self) -> HostPort:
        """Where it listens; before `start`, where it was asked to."""
        if self._socket is None:
            return self._wanted
        return HostPort(self._wanted.host, self._socket.getsockname()[1])

    async def start(self) -> None:
        """Listen. Raises `InvalidArgument` (`config_invalid`) where the address is taken."""
        self._socket = listen_on(self._wanted)
        self._server = HttpServer(http_config(self._app, http=partial(_Crowded, self._open)))
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


class _Crowded(ImpatientHttp):
    """Ends the oldest of too many connections: whoever reaches the port can open them."""

    def __init__(self, others: dict[_Crowded, None], *arguments: Any, **more: Any) -> None:
        super().__init__(_PATIENCE, *arguments, **more)
        self._others = others

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # narrowed by uvicorn
        super().connection_made(transport)
        self._others[self] = None
        if len(self._others) > _MOST_CONNECTIONS:
            next(iter(self._others)).transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._others.pop(self, None)
        super().connection_lost(exc)


def _check_loopback(address: HostPort) -> None:
    if not address.is_loopback:
        raise InvalidArgument(
            Reason.CONFIG_INVALID,
            f"cannot listen on {address}: not a loopback address",
            fix="write 127.0.0.1:port or [::1]:port",
        )
