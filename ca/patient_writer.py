"""Writing to a caller who may not read, without waiting longer than the caller may be spoken to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from citadel.clock import Clock


class PatientWriter:
    """For the writing side of one stream: `wake` is set when there is news, or when it may be over.

    `may_go_on` says whether it goes on, or raises why it ends; at `ends` it may be over by time alone.
    """

    def __init__(
        self, *, wake: asyncio.Event, may_go_on: Callable[[], bool], ends: Callable[[], datetime], clock: Clock
    ) -> None:
        self._wake = wake
        self._may_go_on = may_go_on
        self._ends = ends
        self._clock = clock

    async def written(self, write: Awaitable[None]) -> bool:
        """Whether the stream goes on after this write. It can last until the caller reads; a ban does not."""
        writing, had_news = asyncio.ensure_future(write), False
        try:
            while not writing.done():
                until = self._ends()  # which may raise: before anything waits
                waking = asyncio.ensure_future(self._wake.wait())
                await self._first_of(writing, waking, until=until)
                waking.cancel()
                if not writing.done():
                    if not self._may_go_on():
                        return False
                    had_news = had_news or self._wake.is_set()
                    self._wake.clear()
            writing.result()
        finally:
            writing.cancel()
        if had_news:
            self._wake.set()
        return True

    async def woken(self, *, until: datetime | None = None) -> None:
        """Return when there is news, and at `until` at the latest, or where the stream may be over by then."""
        ends = self._ends()
        waking = asyncio.ensure_future(self._wake.wait())
        await self._first_of(waking, until=min(until or ends, ends))
        waking.cancel()

    async def _first_of(self, *events: asyncio.Future[Any], until: datetime) -> None:
        seconds = (until - self._clock.now()).total_seconds()
        try:
            await asyncio.wait(events, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            for event in events:
                event.cancel()
            raise
