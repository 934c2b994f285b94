"""Coming by the lease: at once where it is free, or after a wait as standby."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import structlog

from ca.lease.model import Holder, Sight
from ca.lease.ports import LeaseStore
from ca.lease.tenure import Tenure
from citadel.clock import Clock
from citadel.errors import Unavailable

_log = structlog.get_logger(__name__)

_LEAST_PAUSE: Final = timedelta(milliseconds=50)
# A server that stops gives the lease back before its end, and a standby should see that soon.
_MOST_PAUSE: Final = timedelta(milliseconds=500)
_STORE_AWAY_PAUSE: Final = timedelta(seconds=1)


class Claim:
    """One server's claim to the lease, for as long as the server runs."""

    def __init__(self, *, store: LeaseStore, holder: Holder, duration: timedelta, clock: Clock) -> None:
        self._store = store
        self._holder = holder
        self._duration = duration
        self._clock = clock
        self._won_before = False
        self._pause = _LEAST_PAUSE
        self.waits_for = ""
        """What the claim waits for, in words for people; empty while it waits for nothing."""
        self.stands_by = False
        """Whether it waits for nothing but another server's lease, as a standby should."""

    async def try_once(self) -> Tenure | None:
        """Take the lease where it can be had now.

        A store that is away is waited for like a lease that another server has. Raises `FailedPrecondition`
        (`data_dir_foreign`) where the store has a schema that this version does not know.
        """
        try:
            await self._store.prepare()
            return await self._take_or_wait()
        except Unavailable as error:
            self.stands_by = False
            self._wait("the store", _STORE_AWAY_PAUSE, error=error.message, fix=error.fix)
            return None

    async def win(self) -> Tenure:
        """Wait until the lease can be had, and take it. Raises as `try_once`."""
        while (tenure := await self.try_once()) is None:
            await self._clock.sleep(self._pause.total_seconds())
        return tenure

    async def _take_or_wait(self) -> Tenure | None:
        sight, returning = await self._store.look(), not self._won_before
        if sight.may_be_taken_by(self._holder, returning=returning):
            asked_at = self._clock.monotonic()
            lease = await self._store.take(self._holder, duration=self._duration, returning=returning)
            if lease is not None:
                self._won_before, self.waits_for, self.stands_by = True, "", False
                _log.info("lease taken", epoch=lease.epoch, holder=self._holder.name)
                return Tenure(store=self._store, lease=lease, clock=self._clock, confirmed_at=asked_at)
            sight = await self._store.look()
        self._stand_by(sight)
        return None

    def _stand_by(self, sight: Sight) -> None:
        holder = sight.lease.holder.name if sight.lease is not None else "another server"
        self.stands_by = True
        pause = min(max(sight.remaining(), _LEAST_PAUSE), _MOST_PAUSE)
        self._wait(f"the lease: standby of {holder}", pause)

    def _wait(self, what: str, pause: timedelta, **details: str) -> None:
        if what != self.waits_for:  # said once, not at every try
            _log.warning("waiting", what=what, **details)
        self.waits_for, self._pause = what, pause
