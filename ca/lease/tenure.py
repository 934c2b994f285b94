"""Keeping the lease, and noticing at once when it is gone."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

import structlog

from ca.lease.model import Lease
from ca.lease.ports import LeaseStore
from citadel.clock import Clock
from citadel.errors import Reason, Unavailable

_log = structlog.get_logger(__name__)

_RENEWALS_IN_A_LIFE: Final = 3
# After a pause that was longer than the lease the store is still asked once: perhaps nobody wanted it meanwhile.
_LEAST_SECONDS_TO_ASK: Final = 0.5
_RELEASE_SECONDS: Final = 2.0


class Tenure:
    """The time in which this server owns the store.

    What protects the store is the fence in each transaction. This here ends what touches no database: a server whose
    lease is gone, or which could not ask about it for as long as a lease lasts, must not go on telling agents how the
    world was. `lost` is set when that has come.
    """

    def __init__(self, *, store: LeaseStore, lease: Lease, clock: Clock, confirmed_at: float) -> None:
        """`confirmed_at` is the monotonic moment at which the lease was asked for."""
        self._store = store
        self._clock = clock
        self._confirmed_at = confirmed_at
        self._renewing: asyncio.Task[bool] | None = None
        self._complained = False
        self.lease = lease
        self.lost = asyncio.Event()

    async def keep(self) -> None:
        """Renew until the lease is lost."""
        duration = self.lease.duration.total_seconds()
        try:
            while not self.lost.is_set():
                await self._clock.sleep(duration / _RENEWALS_IN_A_LIFE)
                asked_at = self._clock.monotonic()
                left = self._confirmed_at + duration - asked_at
                held = await self._is_held(within=max(left, _LEAST_SECONDS_TO_ASK))
                if held:
                    self._confirmed_at = asked_at
                elif held is False:
                    self._lose("another server took it")
                elif self._clock.monotonic() - self._confirmed_at >= duration:
                    self._lose("the store did not answer for as long as it lasts")
        finally:
            await _end(self._renewing)

    async def release(self) -> None:
        """Give the lease back, so that a standby need not wait for its end. Where that fails it ends by itself."""
        try:
            async with asyncio.timeout(_RELEASE_SECONDS):
                await self._store.release(self.lease)
        except (Unavailable, TimeoutError) as error:
            _log.warning("lease not released", epoch=self.lease.epoch, error=str(error))

    async def _is_held(self, *, within: float) -> bool | None:
        """Whether the store says that the lease is ours; `None` where it says nothing within `within` seconds."""
        if self._renewing is None:  # otherwise the one before waits for a lock, and another one would only queue up
            self._renewing = asyncio.create_task(self._store.renew(self.lease))
        await self._wait(self._renewing, within / 2)
        if self._renewing.done():
            renewing, self._renewing = self._renewing, None
            try:
                held = renewing.result()
            except Unavailable as error:
                self._complain(error.message)
            else:
                self._complained = False
                return held
        else:
            self._complain("no answer")
        # A store that is full or locked takes nothing, from nobody, but it can still be read.
        looking = asyncio.create_task(self._store.look())
        try:
            await self._wait(looking, within / 2)
            if looking.done():
                with suppress(Unavailable):
                    found = looking.result().lease
                    return found is not None and (found.holder.id, found.epoch) == (
                        self.lease.holder.id,
                        self.lease.epoch,
                    )
            return None
        finally:
            looking.cancel()

    async def _wait(self, task: asyncio.Task[Any], seconds: float) -> None:
        timer = asyncio.create_task(self._clock.sleep(seconds))
        try:
            await asyncio.wait({task, timer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()

    def _complain(self, error: str) -> None:
        if not self._complained:
            _log.warning("lease not renewed", epoch=self.lease.epoch, error=error)
        self._complained = True

    def _lose(self, why: str) -> None:
        _log.error("lease lost", reason=Reason.LEASE_LOST, epoch=self.lease.epoch, why=why)
        self.lost.set()


async def _end(task: asyncio.Task[Any] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait({task})
