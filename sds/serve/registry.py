"""What every live stream was sent and what its proxy said, and a feed of the changes for the server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import count
from typing import Final

from citadel._wire import types_pb2
from citadel.wire import to_timestamp
from sds.serve.resource import BundleFacts, Resource, SvidFacts
from sds.serve.stream import Standing, State

# While nobody takes the changes, ended streams pile up. The oldest may go: whoever comes back begins with a snapshot.
MAX_ENDED: Final = 10_000

# Of names that nothing was sent for, any local process can make up as many and as long ones as a request holds.
MAX_WAITING: Final = 8
MAX_WAITING_CHARACTERS: Final = 256

_STATES: Final = {
    State.WAITING: types_pb2.ResourceReport.WAITING,
    State.SENT: types_pb2.ResourceReport.SENT,
    State.ACKNOWLEDGED: types_pb2.ResourceReport.ACKNOWLEDGED,
    State.REFUSED: types_pb2.ResourceReport.REFUSED,
}


class StreamRegistry:
    """The newest report of each live stream. Lives on one event loop; a taken report is never changed afterwards."""

    def __init__(self) -> None:
        self._ids = count(1)
        self._live: dict[str, types_pb2.StreamReport] = {}
        self._changed: dict[str, None] = {}
        self._ended: dict[str, types_pb2.StreamReport] = {}
        self._watchers: set[asyncio.Event] = set()

    def new_id(self) -> str:
        """A stream id, unique within this run."""
        return str(next(self._ids))

    def report(self, report: types_pb2.StreamReport) -> None:
        """Take in the newest state of a live stream; the same state again is no change."""
        if self._live.get(report.stream_id) == report:
            return
        self._live[report.stream_id] = report
        self._changed[report.stream_id] = None
        self._wake()

    def end(self, stream_id: str) -> None:
        """The stream has ended; unknown ones are ignored."""
        last = self._live.pop(stream_id, None)
        if last is None:
            return
        self._changed.pop(stream_id, None)
        ended = types_pb2.StreamReport()
        ended.CopyFrom(last)
        ended.closed = True
        self._ended[stream_id] = ended
        if len(self._ended) > MAX_ENDED:
            del self._ended[next(iter(self._ended))]
        self._wake()

    def snapshot(self) -> list[types_pb2.StreamReport]:
        """All live streams."""
        return list(self._live.values())

    def take_changed(self) -> list[types_pb2.StreamReport]:
        """The streams that changed since the last call, and those that ended, marked `closed`."""
        taken = [*(self._live[stream_id] for stream_id in self._changed), *self._ended.values()]
        self._changed, self._ended = {}, {}
        return taken

    def watch(self, event: asyncio.Event) -> None:
        """Set `event` at every change from now on."""
        self._watchers.add(event)

    def unwatch(self, event: asyncio.Event) -> None:
        """Stop setting `event`."""
        self._watchers.discard(event)

    def _wake(self) -> None:
        for event in self._watchers:
            event.set()


def resource_reports(standings: Iterable[Standing]) -> list[types_pb2.ResourceReport]:
    """The standings of a stream as they are reported: all that was sent, and some of what waits, shortened."""
    reports, waiting = [], 0
    for standing in standings:
        if standing.resource is not None:
            reports.append(_sent_report(standing, standing.resource))
        elif (waiting := waiting + 1) <= MAX_WAITING:
            reports.append(types_pb2.ResourceReport(name=_shortened(standing.name), state=_STATES[standing.state]))
    return reports


def _shortened(name: str) -> str:
    # The mark is in no name that is ever sent, so that a shortened one is never taken for one of those.
    return name if len(name) <= MAX_WAITING_CHARACTERS else f"{name[: MAX_WAITING_CHARACTERS - 1]}…"


def _sent_report(standing: Standing, resource: Resource) -> types_pb2.ResourceReport:
    report = types_pb2.ResourceReport(name=standing.name, state=_STATES[standing.state], refusal=standing.refusal)
    report.version = resource.version
    match resource.facts:
        case SvidFacts(spiffe_id, serial, not_after):
            report.spiffe_id, report.serial = spiffe_id, serial
            report.not_after.CopyFrom(to_timestamp(not_after))
        case BundleFacts(trust_domain, sequence):
            report.trust_domain, report.bundle_sequence = trust_domain, sequence
    return report
