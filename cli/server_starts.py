"""Starts of one server, each of which can fail for reasons that pass by themselves."""

from __future__ import annotations

import random
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import structlog

from ca.settings import ServerSettings
from citadel.clock import Clock
from citadel.errors import CitadelError, Reason
from citadel.pace import Pace
from citadel.probes import Check, Health, Probes, Readiness
from citadel.repeated import Repeated

# Reasons why a server begins anew by itself, and the longest pause before that in seconds. Others need a person. What
# is somebody else's, and shared, is asked less and less: starts alone could use up all that it allows.
_PASSING: Final[Mapping[Reason, float]] = MappingProxyType(
    {
        Reason.STORE_UNAVAILABLE: 1.0,
        Reason.LEASE_LOST: 1.0,
        Reason.UPSTREAM_UNAVAILABLE: 10.0,
        Reason.VAULT_UNAVAILABLE: 10.0,
    }
)

_log = structlog.get_logger(__name__)


class Starts:
    """How soon the next one may be, and what is said meanwhile."""

    def __init__(self, settings: ServerSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._pace = Pace(clock=clock, draw=random.random)
        self._repeated = Repeated(clock=clock)
        self._why = ""

    def serves(self) -> None:
        """This one went well: the doors are open."""
        self._pace.worked()
        self._repeated.is_over()

    def failed(self, error: CitadelError) -> None:
        """It does not serve, or no more. Raises `error` where that does not pass."""
        if error.reason not in _PASSING:
            raise error
        self._why = str(error)
        self._pace.failed(longest=_PASSING[error.reason])
        if self._repeated.is_news(error.reason):
            _log.warning("not serving", reason=error.reason, error=self._why)

    async def until_next(self) -> None:
        """Return when it may begin. The probes answer meanwhile."""
        if self._pace.wait == 0:
            return
        probes = Probes(
            self._settings.listen.probes,
            lambda: Readiness.of([Check("start", Health.DEAD, f"starts again soon: {self._why}")]),
            outside=self._settings.listen.probes_outside,
        )
        try:
            await probes.start()
            await self._clock.sleep(self._pace.wait)
        finally:
            await probes.close()
