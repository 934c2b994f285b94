"""Time as a collaborator, so that tests own it."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol


class Clock(Protocol):
    """Where every component takes the time from. All datetimes are aware and in UTC."""

    def now(self) -> datetime:
        """The wall clock, for everything that is written into a certificate or the store."""
        ...

    def monotonic(self) -> float:
        """Seconds that never jump, for measuring and waiting."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` of this clock's own time."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


# The wall clock may jump while the clock that sleeps does not: a suspended machine, an administrator, NTP.
LONGEST_NAP: Final = timedelta(seconds=30)


async def sleep_until(clock: Clock, moment: datetime) -> None:
    """Wait until the wall clock says `moment`, also where it jumps meanwhile."""
    while (left := moment - clock.now()) > timedelta(0):
        await clock.sleep(min(left, LONGEST_NAP).total_seconds())
