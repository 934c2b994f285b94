"""`/live` and `/ready` over HTTP on a loopback address, for whatever watches the process.

`/live` answers 200 as long as the event loop turns. `/ready` answers 200 when the process does its work, also when it
is degraded, and 503 when it does not; the body says which, and why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from citadel.config.types import HostPort
from citadel.loopback_http import LoopbackHttp


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
        self._readiness = readiness
        app = Starlette(routes=[Route("/live", self._live), Route("/ready", self._ready)])
        self._listener = LoopbackHttp(app, address)

    @property
    def address(self) -> HostPort:
        """Where it listens; before `start`, where it was asked to."""
        return self._listener.address

    async def start(self) -> None:
        """Listen, on a port of the system's choice where the port is 0. Raises `InvalidArgument` where it cannot."""
        await self._listener.start()

    async def close(self) -> None:
        """Stop listening and end open connections."""
        await self._listener.close()

    async def _live(self, _: Request) -> JSONResponse:
        return JSONResponse({"status": "live"})

    async def _ready(self, _: Request) -> JSONResponse:
        readiness = self._readiness()
        body = {"status": readiness.status, "checks": dict(readiness.checks)}
        return JSONResponse(body, status_code=200 if readiness.ready else 503)
