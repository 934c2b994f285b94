"""HTTPS for strangers: whoever asks may be anybody, and must not be able to hold the server up."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, Protocol

import structlog
from starlette.types import ASGIApp

from citadel.config.types import HostPort
from citadel.http_server import HttpServer, ImpatientHttp, http_config, listen_on
from citadel.probes import Check

_log = structlog.get_logger(__name__)

_MOST_CONNECTIONS: Final = 256
_PATIENCE: Final = 5.0  # seconds, for the handshake, and then for the first request
# Seconds from one connection to the next. A handshake costs a millisecond of the loop that all the mesh is served by.
# Each connection gets one answer, so that this bounds requests as well.
_PACE: Final = 0.01


class Certificate(Protocol):
    """What is shown."""

    @property
    def context(self) -> ssl.SSLContext | None:
        """What to begin a connection with now; `None` while there is nothing good to show."""
        ...

    async def refresh(self) -> None:
        """Look whether there is another one. Raises nothing."""
        ...

    async def run(self) -> None:
        """Look again and again, for ever."""
        ...

    def check(self) -> Check:
        """For `/ready`."""
        ...


class TlsHttp:
    """Serves `app` from `start` to `close`, with the certificate as it is at each connection.

    It takes connections itself and gives them to uvicorn, which would count them from the end of their handshake only.
    """

    def __init__(
        self,
        app: ASGIApp,
        address: HostPort,
        *,
        certificate: Certificate,
        most: int = _MOST_CONNECTIONS,
        patience: float = _PATIENCE,
    ) -> None:
        self._wanted = address
        self._certificate = certificate
        self._most = most
        self._patience = patience
        self._server = HttpServer(http_config(app, headers=[("connection", "close")]))
        self._socket: socket.socket | None = None
        self._serving: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: dict[socket.socket, None] = {}  # in the order of their coming

    @property
    def address(self) -> HostPort:
        """Where it listens; before `start`, where it was asked to."""
        if self._socket is None:
            return self._wanted
        return HostPort(self._wanted.host, self._socket.getsockname()[1])

    def check(self) -> Check:
        """For `/ready`."""
        return self._certificate.check()

    async def start(self) -> None:
        """Listen. Raises `InvalidArgument` (`config_invalid`) where the address is taken.

        Without a good certificate connections are ended at once until there is one: the mesh does not wait for this.
        """
        await self._certificate.refresh()
        self._socket = listen_on(self._wanted)
        self._serving = asyncio.create_task(self._server.serve(sockets=[]), name=f"https {self.address}")
        self._spawn(self._certificate.run())
        self._spawn(self._accept(self._socket))

    async def close(self) -> None:
        """Stop listening, and end open connections once they have their answers."""
        if self._socket is None or self._serving is None:
            return
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._socket.close()
        self._server.should_exit = True
        await self._serving
        self._socket = self._serving = None

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            # Too many files can be open, and the caller can be gone already.
            with suppress(OSError):
                connection, _ = await asyncio.get_running_loop().sock_accept(listener)
                self._begin(connection)
            await asyncio.sleep(_PACE)

    def _begin(self, connection: socket.socket) -> None:
        context = self._certificate.context
        if context is None:
            connection.close()
            return
        if len(self._open) >= self._most:
            oldest = next(iter(self._open))
            del self._open[oldest]
            with suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)  # its owner sees that it has ended, whatever it was doing
        self._open[connection] = None
        self._spawn(self._serve(connection, context))

    async def _serve(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        """The handshake; from there on the connection is uvicorn's."""
        protocol = _Counted(
            lambda: self._open.pop(connection, None),
            self._patience,
            config=self._server.config,
            server_state=self._server.server_state,
            app_state={},
        )
        is_up = False
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=context,
                ssl_handshake_timeout=self._patience,
                ssl_shutdown_timeout=self._patience,
            )
            is_up = True
        except OSError as error:  # it was no TLS, took too long, or went away
            _log.debug("no TLS connection", error=str(error))
        finally:
            if not is_up:
                self._open.pop(connection, None)


class _Counted(ImpatientHttp):
    def __init__(self, on_lost: Callable[[], object], *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._on_lost = on_lost

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_lost()
        super().connection_lost(exc)
