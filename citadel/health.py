"""`grpc.health.v1` on every listener of a process, following what `/ready` says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer

from citadel.clock import Clock
from citadel.probes import Readiness

_SECONDS_BETWEEN_LOOKS: Final = 1.0
_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING


class HealthBoard:
    """One answer for all services of a process: NOT_SERVING until `readiness` says otherwise, and after `drain`."""

    def __init__(self, readiness: Callable[[], Readiness], *, services: Iterable[str], clock: Clock) -> None:
        """`services` are the full names that can be asked about, beside the empty one for the process as a whole."""
        self._readiness = readiness
        self._clock = clock
        self._names = ("", *services)
        self._looking: asyncio.Task[None] | None = None
        self.servicer = HealthServicer()

    async def start(self) -> None:
        """Look now, and once a second from then on."""
        await self._look()
        self._looking = asyncio.create_task(self._run(), name="health")

    async def drain(self) -> None:
        """Say NOT_SERVING for good: who balances load goes elsewhere before the streams end."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await self.servicer.enter_graceful_shutdown()

    async def _run(self) -> None:
        while True:
            await self._clock.sleep(_SECONDS_BETWEEN_LOOKS)
            await self._look()

    async def _look(self) -> None:
        status = _SERVING if self._readiness().ready else _NOT_SERVING
        for name in self._names:
            await self.servicer.set(name, status)
