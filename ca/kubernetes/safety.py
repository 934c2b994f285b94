"""The net under the work in clusters: what nobody expected ends neither the work nor the server.

Much of what is read there strangers wrote, of several clusters, and one of them is to be no outage of the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import SystemRandom
from typing import Final

import structlog

from citadel.clock import Clock
from citadel.errors import CitadelError
from citadel.kubernetes.observed import Trouble
from citadel.pace import Pace
from citadel.unexpected import nothing_unexpected

_LONGEST_PAUSE: Final = 300.0  # seconds between tries
_GOES_WELL: Final = 300.0  # seconds after which work that was begun anew is believed to

_log = structlog.get_logger(__name__)


class SafetyNet:
    """Has work go on for ever: what ended is begun anew, after growing pauses, and people are told until it goes well.

    What it does piece by piece it is to try again by itself, so that one piece holds up no other.
    """

    def __init__(self, where: str, *, clock: Clock, draw: Callable[[], float] | None = None) -> None:
        self._where = where
        self._clock = clock
        self._draw = draw or SystemRandom().random
        self._begun: dict[str, float] = {}
        self._troubles: dict[str, Trouble] = {}

    async def run(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do it until this is cancelled; `what` says to people what it is."""
        pace = Pace(clock=self._clock, draw=self._draw)
        while True:
            self._begun[what] = self._clock.monotonic()
            try:
                with nothing_unexpected(f"{self._where}: {what}"):
                    await self._apart(what, work)
                    raise AssertionError("it is to go on until it is cancelled")
            except CitadelError as error:
                if self._goes_well(what):
                    pace.worked()
                    self._troubles.pop(what, None)
                self._note(what, error)
            del self._begun[what]
            pace.failed(longest=_LONGEST_PAUSE)
            await self._clock.sleep(pace.wait)

    def troubles(self) -> list[Trouble]:
        """What has ended and does not go well again yet, and since when."""
        return [trouble for what, trouble in self._troubles.items() if not self._goes_well(what)]

    async def _apart(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do it in a task of its own, so that an end that is asked of this one is never taken for its work's error.

        A task group of Python before 3.13 raises the errors of its parts and forgets that it was cancelled from
        outside; and its `cancelling()` says no more which it was.
        """
        task = asyncio.ensure_future(work())
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})  # what it works on must not close under it
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("work in Kubernetes ended with an error", where=self._where, of=what, exc_info=error)
            raise
        if task.cancelled():
            raise RuntimeError("what it waited for was cancelled, and not by whoever ends it")
        task.result()

    def _note(self, what: str, error: CitadelError) -> None:
        told = CitadelError(error.reason, f"the work on {what} ended, and is begun anew: {error.message}")
        _log.error("work in Kubernetes", where=self._where, reason=told.reason, error=told.message)
        known = self._troubles.get(what)
        self._troubles[what] = Trouble(told, known.since if known is not None else self._clock.now())

    def _goes_well(self, what: str) -> bool:
        begun = self._begun.get(what)
        return begun is not None and self._clock.monotonic() - begun >= _GOES_WELL
