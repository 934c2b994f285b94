"""The writing side of one Follow stream, which never waits for a child that does not read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from google.protobuf.message import DecodeError

from ca.clusters.callers import ChildCallers
from ca.clusters.in_force import InForce
from ca.clusters.knowing import Everywhere
from ca.clusters.sessions import ChildSession
from citadel._wire import clusters_pb2 as pb
from citadel.clock import Clock
from citadel.errors import CitadelError

Write = Callable[[pb.ClusterUpdate], Awaitable[None]]


class FollowPush:
    """Tells one child what is to be trusted, for as long as it may hear it."""

    def __init__(
        self,
        *,
        session: ChildSession,
        reader: asyncio.Task[None],
        callers: ChildCallers,
        in_force: InForce,
        everywhere: Everywhere,
        clock: Clock,
    ) -> None:
        self._session = session
        self._reader = reader
        self._callers = callers
        self._in_force = in_force
        self._everywhere = everywhere
        self._clock = clock

    async def run(self, write: Write) -> None:
        """Push until the stream is over. Raises as `ChildCallers.check` once the child may not go on."""
        wake = self._session.wake
        while self._goes_on():
            wake.clear()
            for update in self._session.updates(self._in_force.message(), self._everywhere.now()):
                if not await self._written(write(update)):
                    return
            waking = asyncio.ensure_future(wake.wait())
            await self._first_of(waking)
            waking.cancel()

    def _goes_on(self) -> bool:
        if self._reader.done():
            refusal = self._reader.exception()
            if isinstance(refusal, CitadelError | DecodeError):  # what it said is the end of it
                raise refusal
            return False
        self._callers.check(self._session.child)
        return not self._session.is_ending

    async def _written(self, write: Awaitable[None]) -> bool:
        """Whether the stream goes on after this write. It can last until the child reads; a ban does not."""
        writing, wake, had_news = asyncio.ensure_future(write), self._session.wake, False
        try:
            while not writing.done():
                waking = asyncio.ensure_future(wake.wait())
                await self._first_of(writing, waking)
                waking.cancel()
                if not writing.done():
                    if not self._goes_on():
                        return False
                    had_news = had_news or wake.is_set()
                    wake.clear()
            writing.result()
        finally:
            writing.cancel()
        if had_news:
            wake.set()
        return True

    async def _first_of(self, *events: asyncio.Future[Any]) -> None:
        until: datetime = self._callers.check(self._session.child)
        seconds = (until - self._clock.now()).total_seconds()
        try:
            await asyncio.wait(events, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            for event in events:
                event.cancel()
            raise
