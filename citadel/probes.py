"""`/live` and `/ready` over HTTP on a loopback address, for whatever watches the process.

`/live` answers 200 as long as the event loop turns. `/ready` answers 200 when the process does its work, also when it
is degraded, and 503 when it does not; the body says which, and why.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from citadel.config.types import HostPort
from citadel.errors import InvalidArgument, Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether the process does its work. `checks` says for each part how it is, in words for people."""

    ready: bool
    degraded: bool = False
    checks: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def status(self) -> str:
        """`ready`, `degraded` (ready, but something is wrong) or `not_ready`."""
        if not self.ready:
            return "not_ready"
        return "degraded" if self.degraded else "ready"


class Probes:
    """The probe listener. `readiness` is asked at every request and must not block."""

    def __init__(self, address: HostPort, readiness: Callable[[], Readiness]) -> None:
        """Raises `InvalidArgument` (`config_invalid`) for an address that is not a loopback IP address."""
        _check_loopback(address)
        self._wanted = address
        self._readiness = readiness
        self._socket: socket.socket | None = None
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> HostPort:
        """Where it listens; before `start`, where it was asked to."""
        if self._socket is None:
            return self._wanted
        return HostPort(self._wanted.host, self._socket.getsockname()[1])

    async def start(self) -> None:
        """Listen, on a port of the system's choice where the port is 0. Raises `InvalidArgument` where it cannot."""
        self._socket = _listen(self._wanted)
        app = Starlette(routes=[Route("/live", self._live), Route("/ready", self._ready)])
        config = uvicorn.Config(
            app,
            log_config=None,  # `citadel.logs` owns the handlers
            log_level="warning",  # its start and stop are ours to tell
            access_log=False,
            lifespan="off",
            server_header=False,
            ws="none",
            timeout_keep_alive=2,
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]), name="probes")

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

    async def _live(self, _: Request) -> JSONResponse:
        return JSONResponse({"status": "live"})

    async def _ready(self, _: Request) -> JSONResponse:
        readiness = self._readiness()
        body = {"status": readiness.status, "checks": dict(readiness.checks)}
        return JSONResponse(body, status_code=200 if readiness.ready else 503)


class _Server(uvicorn.Server):
    """Signals belong to the process that this is a part of."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _check_loopback(address: HostPort) -> None:
    try:
        is_loopback = ipaddress.ip_address(address.host).is_loopback
    except ValueError:  # a name may resolve to anything
        is_loopback = False
    if not is_loopback:
        raise InvalidArgument(
            Reason.CONFIG_INVALID,
            f"probes cannot listen on {address}: not a loopback address",
            fix="write 127.0.0.1:port or [::1]:port",
        )


def _listen(address: HostPort) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
        listener.listen(64)
        listener.setblocking(False)  # noqa: FBT003 - the standard library takes it so
    except OSError as error:
        listener.close()
        raise InvalidArgument(
            Reason.CONFIG_INVALID, f"probes cannot listen on {address}: {error.strerror}", fix="choose another port"
        ) from error
    return listener
