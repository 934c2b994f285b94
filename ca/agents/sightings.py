"""When each agent was last seen: in memory at once, in the store soon, in few and small commits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Final, Protocol

import structlog

from citadel.clock import Clock
from citadel.errors import CitadelError
from citadel.spiffe import SpiffeId

# One commit takes all that came or went meanwhile: agents come back by the thousand when a server restarts.
_GATHERING: Final = 2.0  # seconds
_STILL_HERE: Final = 600.0  # seconds between notes on agents that stay connected

_log = structlog.get_logger(__name__)


class SightingStore(Protocol):
    """Where sightings are durable."""

    async def last_seen(self) -> Mapping[SpiffeId, datetime]:
        """All that are known."""
        ...

    async def note_seen(self, seen: Mapping[SpiffeId, datetime]) -> None:
        """Note these; agents that are gone are left out."""
        ...


class Sightings:
    """Knows when agents were seen. `connected` gives those who are here now; `run` writes, for as long as it runs.

    A killed server loses at most the last minutes of an agent that stayed connected.
    """

    def __init__(self, *, store: SightingStore, connected: Callable[[], Iterable[SpiffeId]], clock: Clock) -> None:
        self._store = store
        self._connected = connected
        self._clock = clock
        self._seen: dict[SpiffeId, datetime] = {}
        self._unwritten: dict[SpiffeId, datetime] = {}
        self._arrived = asyncio.Event()

    async def start(self) -> None:
        """Load what was seen before."""
        self._seen = dict(await self._store.last_seen())

    def note(self, spiffe_id: SpiffeId) -> None:
        """The agent connected or disconnected just now."""
        self._seen[spiffe_id] = self._unwritten[spiffe_id] = self._clock.now()
        self._arrived.set()

    def of(self, spiffe_id: SpiffeId) -> datetime | None:
        """When the agent was last seen, None where it never was. One that is connected is seen now."""
        return self._seen.get(spiffe_id)

    async def run(self) -> None:
        """Write until cancelled, and once more then."""
        still_here = asyncio.create_task(self._note_who_stays())
        try:
            while True:
                await self._arrived.wait()
                await self._clock.sleep(_GATHERING)
                await self._write()
        finally:
            still_here.cancel()
            for spiffe_id in self._connected():
                self.note(spiffe_id)
            await self._write()

    async def _note_who_stays(self) -> None:
        while True:
            await self._clock.sleep(_STILL_HERE)
            for spiffe_id in self._connected():
                self.note(spiffe_id)

    async def _write(self) -> None:
        self._arrived.clear()
        batch, self._unwritten = self._unwritten, {}
        if not batch:
            return
        try:
            await self._store.note_seen(batch)
        except CitadelError as error:
            # Kept for the next time; nobody's service depends on it.
            self._unwritten = batch | self._unwritten
            _log.info("when agents were seen is not written yet", reason=error.reason, error=str(error))
