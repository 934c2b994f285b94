"""What has to be brought in order in a cluster, one key each, without one that cannot be holding up the others."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from random import SystemRandom
from types import MappingProxyType
from typing import Final

import structlog

from citadel.clock import Clock
from citadel.errors import CitadelError, Reason
from citadel.kubernetes.ports import ApiUnavailable
from citadel.pace import Pace
from citadel.unexpected import nothing_unexpected

_LONGEST_PAUSE: Final = 300.0  # seconds between tries of one key
_AWAY_PAUSE: Final = 1.0

_log = structlog.get_logger(__name__)


class Backlog:
    """Keys that `work` brings in order, so many `at_once`, each by one at a time, and once however often it is added.

    What raises anything is tried again with growing pauses of its own. While `is_away` says that the API server
    cannot be followed nothing is tried at all, and what it asks to wait (429) all wait: its return is no storm.
    """

    def __init__(
        self,
        work: Callable[[str], Awaitable[None]],
        *,
        is_away: Callable[[], bool],
        clock: Clock,
        at_once: int,
        draw: Callable[[], float] | None = None,
    ) -> None:
        self._work = work
        self._is_away = is_away
        self._clock = clock
        self._at_once = at_once
        self._draw = draw or SystemRandom().random
        self._ready: deque[str] = deque()
        self._queued: set[str] = set()
        self._working: set[str] = set()
        self._again: set[str] = set()
        self._later: dict[str, asyncio.Task[None]] = {}
        self._paces: dict[str, Pace] = {}
        self._failing: dict[str, CitadelError] = {}
        self._arrived = asyncio.Event()
        self._rests_until = 0.0
        self._is_over = False

    @property
    def failing(self) -> Mapping[str, CitadelError]:
        """What could not be brought in order when it was tried last, and why."""
        return MappingProxyType(self._failing)

    def waits_for(self, key: str) -> bool:
        """Whether this is tried again later."""
        return key in self._later

    def add(self, key: str, *, after: float = 0.0, urgent: bool = False) -> None:
        """Have this looked at, `after` so many seconds; what is `urgent` goes before what waits already."""
        self._cancel(key)
        if after > 0:
            self._later[key] = asyncio.create_task(self._add_later(key, after))
        elif key in self._working:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            (self._ready.appendleft if urgent else self._ready.append)(key)
            self._arrived.set()

    def forget(self, key: str) -> None:
        """There is no such thing any more."""
        self._cancel(key)
        self._worked(key)

    async def run(self) -> None:
        """Work for ever."""
        self._is_over = False
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(self._at_once):
                    workers.create_task(self._worker())
                try:
                    await asyncio.Event().wait()
                finally:  # before they are cancelled: what work makes of that is no failure of its key
                    self._is_over = True
        finally:
            for key in list(self._later):  # who runs this again finds them ready
                self.add(key)

    async def _worker(self) -> None:
        while True:
            key = await self._next()
            self._working.add(key)
            try:
                with nothing_unexpected(key):
                    await self._work(key)
            except (CitadelError, asyncio.CancelledError) as error:
                if self._is_over:
                    self._again.add(key)
                    raise asyncio.CancelledError from error
                self._failed(key, error if isinstance(error, CitadelError) else _given_up(key))
            else:
                self._worked(key)
            finally:
                self._working.discard(key)
                if key in self._again:
                    self._again.discard(key)
                    self.add(key)

    async def _next(self) -> str:
        while True:
            await self._arrived.wait()
            rest = _AWAY_PAUSE if self._is_away() else self._rests_until - self._clock.monotonic()
            if rest > 0:
                await self._clock.sleep(rest)
            elif self._ready:
                key = self._ready.popleft()
                self._queued.discard(key)
                return key
            else:
                self._arrived.clear()

    async def _add_later(self, key: str, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._later.pop(key, None)
        self.add(key)

    def _cancel(self, key: str) -> None:
        if (later := self._later.pop(key, None)) is not None:
            later.cancel()

    def _failed(self, key: str, error: CitadelError) -> None:
        known = self._failing.get(key)
        if known is None or known.reason != error.reason:
            _log.warning("not in order in Kubernetes, trying again", what=key, reason=error.reason, error=str(error))
        self._failing[key] = error
        if isinstance(error, ApiUnavailable) and error.retry_after is not None:
            asked = self._clock.monotonic() + error.retry_after.total_seconds()
            self._rests_until = max(self._rests_until, asked)
        pace = self._paces.setdefault(key, Pace(clock=self._clock, draw=self._draw))
        pace.failed(longest=_LONGEST_PAUSE)
        if key not in self._again:  # what changed meanwhile is looked at now
            self.add(key, after=pace.wait)

    def _worked(self, key: str) -> None:
        self._paces.pop(key, None)
        self._failing.pop(key, None)


def _given_up(key: str) -> CitadelError:
    """What work came to that was not ended by whoever ends all: something that it waited for was."""
    _log.error("what the work waited for was cancelled", what=key)
    return CitadelError(Reason.INTERNAL, "the server's own fault, what the work waited for was cancelled")
