"""How many writes a second an API server is asked for."""

from __future__ import annotations

from typing import Final

from citadel.clock import Clock

_LATEST: Final = 0.2  # seconds that a turn may come late, and be made up for


class WriteRate:
    """Gives turns, `per_second` of them at most, in the order in which they were asked for."""

    def __init__(self, per_second: float, *, clock: Clock) -> None:
        self._pause = 1 / per_second
        self._clock = clock
        self._next = clock.monotonic()

    async def turn(self) -> None:
        """Return when one more may be written."""
        now = self._clock.monotonic()
        mine = max(self._next, now - _LATEST)
        self._next = mine + self._pause
        if mine > now:
            await self._clock.sleep(mine - now)
