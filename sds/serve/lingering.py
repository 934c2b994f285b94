"""What programs may still hold of streams that they have closed: they go on using their certificates.

A program fetches once and closes the stream; an Envoy is between two connections. The process counts, held by a pidfd:
whoever has its number later is somebody else.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import structlog
from google.protobuf.timestamp_pb2 import Timestamp

from citadel._wire import types_pb2
from citadel.clock import Clock
from citadel.kubernetes.credential_names import is_credential_name
from citadel.peer import Process
from citadel.wire import from_timestamp, to_duration

MOST_LINGERING: Final = 4096
# A bundle is of interest while an Envoy may come back for the next one, which the server judges: at most 35 s.
_BUNDLE_COUNTS_FOR: Final = 40.0  # seconds

_SENT: Final = types_pb2.ResourceReport.SENT

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Closed:
    """A closed stream; both moments by the clock that never jumps."""

    report: types_pb2.StreamReport
    at: float
    until: float = math.inf


@dataclass(slots=True)
class _Holder:
    """A process with closed streams."""

    process: Process
    stream_ids: set[str] = field(default_factory=set)


class Lingering:
    """The closed streams whose processes live. Lives on one event loop.

    At most `most` are kept, the newest. `on_change` is told the id of one that says less than before, `on_gone` of one
    that counts no more: its process has ended, or holds something newer, or what it holds has ended.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        on_change: Callable[[str], None],
        on_gone: Callable[[str], None],
        most: int = MOST_LINGERING,
    ) -> None:
        self._clock = clock
        self._on_change = on_change
        self._on_gone = on_gone
        self._most = most
        self._closed: dict[str, _Closed] = {}  # the oldest first
        self._holders: dict[int, _Holder] = {}  # by pid
        self._has_said_full = False

    def __contains__(self, stream_id: str) -> bool:
        return stream_id in self._closed

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._closed))

    def take(self, report: types_pb2.StreamReport, process: Process) -> bool:
        """The stream of `report` was closed by `process`. Whether it lingers."""
        held = [each for each in report.resources if _may_be_held(each)]
        if not held or process.has_ended():
            return False
        try:
            holder = self._holder_of(report.pid, process)
        except OSError:  # no descriptor is free, and those who connect need them more
            self._say_full()
            return False
        now = self._clock.monotonic()
        # By the clock that never jumps: no jump of the other one makes anybody forgotten.
        until = now + max(map(self._counts_for, held))
        self._closed[report.stream_id] = _Closed(_with(held, report), at=now, until=until)
        holder.stream_ids.add(report.stream_id)
        self.supersede(report)
        if len(self._closed) > self._most:
            self._say_full()
            self._forget(next(iter(self._closed)))
        return True

    def supersede(self, report: types_pb2.StreamReport) -> None:
        """Forget what the process of `report` holds no more, since it holds something newer under the same name."""
        holder = self._holders.get(report.pid)
        for stream_id in holder.stream_ids - {report.stream_id} if holder is not None else ():
            closed = self._closed[stream_id].report
            left = [each for each in closed.resources if not any(_replaces(newer, each) for newer in report.resources)]
            if not left:
                self._forget(stream_id)
            elif len(left) < len(closed.resources):
                self._closed[stream_id].report = _with(left, closed)
                self._on_change(stream_id)

    def report(self, stream_id: str) -> types_pb2.StreamReport:
        """What is told of a stream that lingers."""
        closed = self._closed[stream_id]
        told = types_pb2.StreamReport(closed=True)
        told.MergeFrom(closed.report)
        told.closed_for.CopyFrom(to_duration(timedelta(seconds=self._clock.monotonic() - closed.at)))
        return told

    def forget_ended(self) -> None:
        """Forget what has ended by time alone."""
        now = self._clock.monotonic()
        for stream_id in [stream_id for stream_id, closed in self._closed.items() if closed.until <= now]:
            self._forget(stream_id)

    def close(self) -> None:
        """Forget all, and let every process go."""
        for stream_id in self:
            self._forget(stream_id)

    def _holder_of(self, pid: int, process: Process) -> _Holder:
        """The process by this number, held; one that ended without our having heard of it yet is forgotten."""
        known = self._holders.get(pid)
        if known is not None and known.process.has_ended():
            self._process_has_ended(pid)
            known = None
        if known is None:
            known = self._holders[pid] = _Holder(process.apart())
            asyncio.get_running_loop().add_reader(known.process.fileno(), self._process_has_ended, pid)
        return known

    def _process_has_ended(self, pid: int) -> None:
        for stream_id in tuple(self._holders[pid].stream_ids):
            self._forget(stream_id)

    def _forget(self, stream_id: str) -> None:
        closed = self._closed.pop(stream_id)
        holder = self._holders[closed.report.pid]
        holder.stream_ids.discard(stream_id)
        if not holder.stream_ids:
            del self._holders[closed.report.pid]
            asyncio.get_running_loop().remove_reader(holder.process.fileno())
            holder.process.let_go()
        self._on_gone(stream_id)

    def _counts_for(self, resource: types_pb2.ResourceReport) -> float:
        if resource.trust_domain:
            return _BUNDLE_COUNTS_FOR
        if resource.held_version and not resource.held_serial:  # brought from a stream that nobody here knows
            return math.inf
        return max((from_timestamp(end) - self._clock.now()).total_seconds() for end in _ends(resource))

    def _say_full(self) -> None:
        if not self._has_said_full:
            self._has_said_full = True
            _log.warning("more closed streams than are remembered: rotations wait for the newest", limit=self._most)


def _with(resources: Iterable[types_pb2.ResourceReport], report: types_pb2.StreamReport) -> types_pb2.StreamReport:
    """A copy of the report with these resources: what was given out is never changed."""
    copy = types_pb2.StreamReport()
    copy.CopyFrom(report)
    del copy.resources[:]
    copy.resources.extend(resources)
    return copy


def _may_be_held(resource: types_pb2.ResourceReport) -> bool:
    """Also what was sent and not answered: a program that fetches once closes its stream as soon as it has read.

    Of a name that nothing was sent for here a process can say what it likes. What gateways have from elsewhere is
    nothing that anybody here replaces.
    """
    if is_credential_name(resource.name):
        return False
    return bool(resource.version) and (bool(resource.held_version) or resource.state == _SENT)


def _replaces(newer: types_pb2.ResourceReport, older: types_pb2.ResourceReport) -> bool:
    """Whether a process that holds `newer` has it in the place of `older`."""
    if newer.name != older.name:
        return False
    if _what(older) <= _what(newer):
        return True
    if newer.held_bundle_sequence:
        return newer.held_bundle_sequence >= older.held_bundle_sequence
    return bool(newer.held_serial) and all(newer.held_not_after.seconds >= end.seconds for end in _ends(older))


def _what(resource: types_pb2.ResourceReport) -> set[tuple[str, int]]:
    """All that may be held; what was brought from a stream that nobody here knows has no name."""
    held = {(resource.held_serial, resource.held_bundle_sequence)} if resource.held_version else set()
    return held | ({(resource.serial, resource.bundle_sequence)} if resource.state == _SENT else set())


def _ends(resource: types_pb2.ResourceReport) -> list[Timestamp]:
    """When the certificates that may be held end, of those that are known."""
    held = [resource.held_not_after] if resource.HasField("held_not_after") else []
    return [*held, resource.not_after] if resource.state == _SENT and resource.HasField("not_after") else held
