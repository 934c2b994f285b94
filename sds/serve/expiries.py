"""Wakes whoever waits for a moment of the wall clock: one timer for thousands of streams."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Final

from citadel.clock import Clock

# Looking often, instead of sleeping until the nearest moment, also follows a wall clock that was set.
_PERIOD: Final = 0.5  # seconds


class Expiries:
    """At most one moment for each event."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._moments: dict[asyncio.Event, datetime] = {}

    def wake_at(self, event: asyncio.Event, moment: datetime | None) -> None:
        """Set `event` once `moment` has come, soon after; None takes an earlier wish back."""
        if moment is None:
            self._moments.pop(event, None)
        else:
            self._moments[event] = moment

    async def run(self) -> None:
        """Keep going until cancelled."""
        while True:
            await self._clock.sleep(_PERIOD)
            now = self._clock.now()
            for event in [event for event, moment in self._moments.items() if moment <= now]:
                del self._moments[event]
                event.set()
