"""One Follow stream, from its beginning to its end: what is to be trusted comes down, what is known here goes up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Protocol

from citadel._wire import clusters_pb2 as pb
from citadel._wire import clusters_pb2_grpc
from citadel.call import errors_of_call
from citadel.clock import Clock
from citadel.errors import Reason, Unavailable
from citadel.waiting import news_or_time

_COALESCE: Final = 0.05  # seconds; a rotation in full flight changes a report with every acknowledgement
_BYTES_PER_SECOND: Final = 4_000_000  # long revocation lists go up whole

Take = Callable[[pb.ClusterUpdate], Awaitable[None]]


class Reports(Protocol):
    """Where it stands what the parent is told."""

    def now(self) -> pb.ClusterReport | None:
        """All of it, as it is now; None where that is not known yet, and nothing is to be said."""
        ...

    @property
    def look_again(self) -> float:
        """In how many seconds it may be another one, though nothing says so."""
        ...

    def watch(self, event: asyncio.Event) -> None:
        """Set `event` when it may have changed."""
        ...

    def unwatch(self, event: asyncio.Event) -> None:
        """Stop setting `event`."""
        ...


class FollowStream:
    """`take` puts in force what came down. `on_synced` is told once the first of it is, `on_end` when all is over."""

    def __init__(
        self,
        *,
        take: Take,
        reports: Reports,
        on_synced: Callable[[], None],
        on_end: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._take = take
        self._reports = reports
        self._on_synced = on_synced
        self._on_end = on_end
        self._clock = clock
        self._wake = asyncio.Event()
        self._is_over = False
        self._was_synced = False

    async def run(self, api: clusters_pb2_grpc.ClustersAsyncStub) -> None:
        """Run until the stream ends; always raises a `CitadelError` that says why."""
        self._reports.watch(self._wake)
        call = api.Follow(self._outgoing())
        try:
            with errors_of_call("the stream was given up on this side"):
                async for update in call:
                    await self._on_update(update)
        finally:
            self._reports.unwatch(self._wake)
            call.cancel()
            # gRPC leaves the task that pulls from `_outgoing` waiting for ever when the parent ended the call.
            self._is_over = True
            self._wake.set()
            if self._was_synced:
                self._on_end()
        raise Unavailable(Reason.SERVER_UNREACHABLE, "the parent ended the stream")

    async def _on_update(self, update: pb.ClusterUpdate) -> None:
        await self._take(update)
        if not self._was_synced and update.HasField("trust"):
            self._was_synced = True
            self._on_synced()
        self._wake.set()

    async def _outgoing(self) -> AsyncIterator[pb.ClusterReport]:
        """Pulled by gRPC as fast as the parent reads, so that nothing piles up here while it does not."""
        told: pb.ClusterReport | None = None
        while not self._is_over:
            self._wake.clear()
            report = self._reports.now()
            pause = _COALESCE
            if report is not None and report != told:
                told = report
                yield report
                pause = max(pause, report.ByteSize() / _BYTES_PER_SECOND)
            await self._clock.sleep(pause)
            if not self._is_over:
                await news_or_time(self._wake, self._reports.look_again, clock=self._clock)
