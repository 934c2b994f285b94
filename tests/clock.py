"""A clock that tests own: time stands still until it is advanced."""

from __future__ import annotations

import asyncio
import heapq
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Final

_ROUNDS: Final = 50


class FakeClock:
    """Fulfils `citadel.clock.Clock`. `advance` wakes sleepers in order, letting each run before the next wakes."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._elapsed = 0.0
        self._jumped = timedelta(0)
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed) + self._jumped

    def jump(self, by: timedelta) -> None:
        """Set the wall clock, as an administrator or a resumed machine does; nobody's sleep notices."""
        self._jumped += by

    def leap(self, seconds: float) -> None:
        """Let time pass at once: whoever would have woken many times meanwhile wakes once, at the next `advance`."""
        self._elapsed += seconds

    def monotonic(self) -> float:
        return self._elapsed

    @property
    def is_awaited(self) -> bool:
        """Whether somebody sleeps; who works in a thread does not yet, and would sleep through an `advance`."""
        return any(not future.done() for _, _, future in self._sleepers)

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed + max(0.0, seconds), next(self._order), future))
        await future

    async def advance(self, seconds: float, *, rounds: int = _ROUNDS) -> None:
        """Let time pass. Whoever can go on meanwhile is given `rounds` turns of the loop before and after each wake."""
        await self._let_others_run(rounds)
        until = self._elapsed + seconds
        while self._sleepers and self._sleepers[0][0] <= until:
            due, _, future = heapq.heappop(self._sleepers)
            self._elapsed = max(self._elapsed, due)
            if not future.done():
                future.set_result(None)
            await self._let_others_run(rounds)
        self._elapsed = until
        await self._let_others_run(rounds)

    @staticmethod
    async def _let_others_run(rounds: int) -> None:
        for _ in range(rounds):
            await asyncio.sleep(0)
