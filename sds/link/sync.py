"""One Sync stream, from its hello to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from citadel._wire import agent_api_pb2 as pb
from citadel._wire import agent_api_pb2_grpc, types_pb2
from citadel.call import errors_of_call
from citadel.clock import Clock
from citadel.errors import Reason, Unavailable
from sds.link.updates import Assembly, Change

_COALESCE: Final = 0.05  # seconds; a push to a thousand streams becomes a few messages
_REPORTS_PER_MESSAGE: Final = 500
_RESOURCES_PER_MESSAGE: Final = 10_000  # the server takes 30,000 parts in all
_BYTES_PER_MESSAGE: Final = 1024 * 1024  # the server takes 8 MiB, and refuses a larger one by ending the stream


class StreamReports(Protocol):
    """Where the reports of the proxies' streams come from: the serving side's registry."""

    def snapshot(self) -> Sequence[types_pb2.StreamReport]:
        """All open streams, and closed ones that count."""
        ...

    def take_changed(self) -> Sequence[types_pb2.StreamReport]:
        """The streams that changed since the last call, and those that count no more."""
        ...

    def watch(self, event: asyncio.Event) -> None:
        """Set `event` at every change from now on."""
        ...

    def unwatch(self, event: asyncio.Event) -> None:
        """Stop setting `event`."""
        ...


class RenewProgress(Protocol):
    """How far the agent has come with what it was ordered to renew."""

    def now(self) -> pb.RenewProgress:
        """What the server is told."""
        ...

    def watch(self, event: asyncio.Event) -> None:
        """Set `event` when it may have changed."""
        ...

    def unwatch(self, event: asyncio.Event) -> None:
        """Stop setting `event`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """What the agent keeps and serves now: the sequence of its own bundle, and the version of the revocation lists."""

    bundle_sequence: int
    revocation_version: str


class SyncStream:
    """Takes changes down, and sends acknowledgements, stream reports and the progress of renewals up.

    `take` makes a change durable and visible; only then it is acknowledged, with what is `in_force` by then.
    `on_synced` is told once the first change, which is a snapshot, was taken.
    """

    def __init__(
        self,
        *,
        hello: Callable[[], pb.Hello],
        take: Callable[[Change], Awaitable[None]],
        on_synced: Callable[[], None],
        reports: StreamReports,
        in_force: Callable[[], InForce],
        progress: RenewProgress,
        clock: Clock,
    ) -> None:
        self._in_force = in_force
        self._progress = progress
        self._hello = hello
        self._take = take
        self._on_synced = on_synced
        self._reports = reports
        self._clock = clock
        self._wake = asyncio.Event()
        self._taken: list[int] = []  # revisions to acknowledge
        self._is_over = False
        self.was_synced = False

    async def run(self, api: agent_api_pb2_grpc.AgentApiAsyncStub) -> None:
        """Run until the stream ends; always raises a `CitadelError` that says why."""
        self._reports.watch(self._wake)
        self._progress.watch(self._wake)
        call = api.Sync(self._outgoing())
        assembly = Assembly()
        try:
            with errors_of_call("the stream was given up on this side"):
                async for part in call:
                    if (change := assembly.add(part)) is not None:
                        await self._on_change(change)
        finally:
            self._reports.unwatch(self._wake)
            self._progress.unwatch(self._wake)
            call.cancel()
            # gRPC leaves the task that pulls from `_outgoing` waiting for ever when the server ended the call.
            self._is_over = True
            self._wake.set()
        raise Unavailable(Reason.SERVER_UNREACHABLE, "the server ended the stream")

    async def _on_change(self, change: Change) -> None:
        await self._take(change)
        self._taken.append(change.revision)
        self._wake.set()
        if not self.was_synced:
            self.was_synced = True
            self._on_synced()

    async def _outgoing(self) -> AsyncIterator[pb.AgentMessage]:
        """Pulled by gRPC as fast as the server reads, so that nothing piles up here while it does not."""
        yield pb.AgentMessage(hello=self._hello())
        is_first, told_progress = True, pb.RenewProgress()
        while not self._is_over:
            await self._wake.wait()
            self._wake.clear()
            while self._taken:
                yield pb.AgentMessage(acknowledge=self._acknowledge(self._taken.pop(0)))
            # Not before the first change was taken: until then an older stream of this agent may be the reporting one.
            if not self.was_synced:
                continue
            if not is_first:
                await self._clock.sleep(_COALESCE)
            if self._is_over:  # the changes are for the stream that comes after this one
                return
            for message in self._report(is_snapshot=is_first):
                yield message
            is_first = False
            progress = self._progress.now()
            if progress != told_progress:
                yield pb.AgentMessage(progress=progress)
                told_progress = progress

    def _acknowledge(self, revision: int) -> pb.Acknowledge:
        now = self._in_force()
        return pb.Acknowledge(
            revision=revision, bundle_sequence=now.bundle_sequence, revocation_version=now.revocation_version
        )

    def _report(self, *, is_snapshot: bool) -> Iterator[pb.AgentMessage]:
        reports = self._reports.take_changed()
        if is_snapshot:
            reports = self._reports.snapshot()
            if not reports:  # is told too: the server may still know some of before
                yield pb.AgentMessage(streams=pb.Streams(snapshot=True))
        for number, portion in enumerate(_portions(reports)):
            yield pb.AgentMessage(streams=pb.Streams(snapshot=is_snapshot and number == 0, reports=portion))


def _portions(reports: Iterable[types_pb2.StreamReport]) -> Iterator[list[types_pb2.StreamReport]]:
    """What fits into one message each, by number and by size; one report that is larger goes alone."""
    portion: list[types_pb2.StreamReport] = []
    size = resources = 0
    for report in reports:
        more, within = report.ByteSize(), len(report.resources)
        is_full = len(portion) == _REPORTS_PER_MESSAGE or resources + within > _RESOURCES_PER_MESSAGE
        if portion and (is_full or size + more > _BYTES_PER_MESSAGE):
            yield portion
            portion, size, resources = [], 0, 0
        portion.append(report)
        size += more
        resources += within
    if portion:
        yield portion
