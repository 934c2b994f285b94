"""The writing side of one Follow stream, which never waits for a child that does not read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from google.protobuf.message import DecodeError

from ca.clusters.callers import ChildCallers
from ca.clusters.in_force import InForce
from ca.clusters.knowing import Everywhere
from ca.clusters.sessions import ChildSession
from ca.patient_writer import PatientWriter
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
        writer = PatientWriter(
            wake=self._session.wake,
            may_go_on=self._goes_on,
            ends=lambda: self._callers.check(self._session.child),
            clock=self._clock,
        )
        while self._goes_on():
            self._session.wake.clear()
            for update in self._session.updates(self._in_force.message(), self._everywhere.now()):
                if not await writer.written(write(update)):
                    return
            await writer.woken()

    def _goes_on(self) -> bool:
        if self._reader.done():
            refusal = self._reader.exception()
            if isinstance(refusal, CitadelError | DecodeError):  # what it said is the end of it
                raise refusal
            return False
        self._callers.check(self._session.child)
        return not self._session.is_ending
