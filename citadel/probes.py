"""`/live`, `/ready` and `/metrics` over HTTP for whatever watches the process, on loopback unless others are to ask.

`/live` answers 200 as long as the event loop turns. `/ready` answers 200 when the process does its work, also when it
is degraded, and 503 when it does not; the body says which, and why: JSON, or text for who accepts `text/plain`. With
`?standbyok=true` a standby with nothing to complain of answers 200 as well: waiting is its work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Self

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from citadel.config.types import HostPort
from citadel.loopback_http import LoopbackHttp


class Health(IntEnum):
    """How a part of the process is; the worst part says how the process is."""

    GOOD = 0
    DEGRADED = 1  # the process does its work, but somebody should look
    DEAD = 2  # without this part it does not do its work


@dataclass(frozen=True, slots=True)
class Check:
    """One part of the process, and how it is, in words for people."""

    name: str
    health: Health
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether the process does its work. `checks` says for each part how it is, in words for people.

    One that `stands_by` is not ready, and nothing is wrong with it: another one does the work.
    """

    ready: bool
    degraded: bool = False
    stands_by: bool = False
    checks: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def of(cls, checks: Iterable[Check]) -> Self:
        """The sum of `checks`."""
        parts = tuple(checks)
        worst = max((part.health for part in parts), default=Health.GOOD)
        return cls(
            ready=worst is not Health.DEAD,
            degraded=worst is not Health.GOOD,
            checks={part.name: part.text for part in parts},
        )

    @property
    def status(self) -> str:
        """`ready`, `degraded` (ready, but something is wrong) or `not_ready`."""
        if not self.ready:
            return "not_ready"
        return "degraded" if self.degraded else "ready"


class Probes:
    """The probe listener. `readiness` is asked at every request and must not block; `metrics` is told where given."""

    def __init__(
        self,
        address: HostPort,
        readiness: Callable[[], Readiness],
        *,
        metrics: CollectorRegistry | None = None,
        outside: bool = False,
    ) -> None:
        """Raises `InvalidArgument` (`config_invalid`) for what is no loopback IP address, unless `outside`."""
        self._readiness = readiness
        self._metrics = metrics
        routes = [Route("/live", self._live), Route("/ready", self._ready)]
        if metrics is not None:
            routes.append(Route("/metrics", self._tell_metrics))
        self._listener = LoopbackHttp(Starlette(routes=routes), address, outside=outside)

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

    async def _ready(self, request: Request) -> Response:
        readiness = self._readiness()
        waits_its_turn = readiness.stands_by and request.query_params.get("standbyok") == "true"
        code = 200 if readiness.ready or waits_its_turn else 503
        if "text/plain" in request.headers.get("accept", ""):
            lines = [readiness.status, *(f"{name}: {text}" for name, text in readiness.checks.items())]
            return PlainTextResponse("\n".join(lines) + "\n", status_code=code)
        return JSONResponse({"status": readiness.status, "checks": dict(readiness.checks)}, status_code=code)

    async def _tell_metrics(self, _: Request) -> Response:
        # In the loop's own thread: what is read belongs to it. Collectors read memory only.
        body = generate_latest(self._metrics) if self._metrics is not None else b""
        return Response(body, media_type=CONTENT_TYPE_PLAIN_0_0_4)
