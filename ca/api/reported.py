"""The streams of one agent as it reports them, and no more of them than one agent may make the server remember."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import structlog

from citadel._wire import agent_api_pb2 as pb
from citadel._wire import types_pb2
from citadel.errors import InvalidArgument, Reason
from citadel.printable import printable
from citadel.spiffe import MAX_ID_BYTES, SpiffeId
from citadel.wire import from_duration

_MOST_STREAMS: Final = 20_000
_MOST_AT_ONCE: Final = 2000  # an agent sends 500; nobody else has a turn meanwhile
_MOST_STREAM_BYTES: Final = 32 * 1024 * 1024
_BYTES_OF_EACH: Final = 256  # in memory, of a report and of each resource, beside what stands in them
_MOST_NAME: Final = MAX_ID_BYTES  # characters; the longest of them are SPIFFE IDs
_MOST_WORDS: Final = 500
_WORDS: Final = frozenset({"refusal"})

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ClosedStream:
    """A stream that was closed, while its process goes on with what it was given.

    `at` is the moment by the server's clock that never jumps.
    """

    report: types_pb2.StreamReport
    at: float


class ReportedStreams:
    """Those that are open, and those that were closed and still count."""

    def __init__(self, agent: SpiffeId) -> None:
        self.open: dict[str, types_pb2.StreamReport] = {}
        self.closed: dict[str, ClosedStream] = {}
        self.are_all = False  # all were told at least once
        self.is_over = False  # more are told than are remembered
        self._agent = agent
        self._bytes = 0

    def take(self, streams: pb.Streams, *, at: float) -> None:
        """Take what the agent said at this moment by the clock that never jumps.

        Raises `InvalidArgument` (`request_malformed`) for a message of more streams than an agent tells of in one.
        """
        if len(streams.reports) > _MOST_AT_ONCE:
            raise InvalidArgument(Reason.REQUEST_MALFORMED, f"more than {_MOST_AT_ONCE} streams in one message")
        if streams.snapshot:
            self.open.clear()
            self.closed.clear()
            self._bytes = 0
            self.are_all = True
        for report in streams.reports:
            self._take(_kept(report), at)

    def _take(self, report: types_pb2.StreamReport, at: float) -> None:
        before = self._known(report.stream_id)
        counts = not report.closed or report.HasField("closed_for")
        added = (_room(report) if counts else 0) - (_room(before) if before is not None else 0)
        is_full = before is None and len(self.open) + len(self.closed) >= _MOST_STREAMS
        if counts and (is_full or self._bytes + added > _MOST_STREAM_BYTES):
            self._say_once_that_it_is_over()
            return
        self._bytes += added
        if not report.closed:
            self.closed.pop(report.stream_id, None)
            self.open[report.stream_id] = report
            return
        self.open.pop(report.stream_id, None)
        self.closed.pop(report.stream_id, None)
        if counts:
            closed_for = max(0.0, from_duration(report.closed_for).total_seconds())
            self.closed[report.stream_id] = ClosedStream(report, at - closed_for)

    def _known(self, stream_id: str) -> types_pb2.StreamReport | None:
        closed = self.closed.get(stream_id)
        return closed.report if closed is not None else self.open.get(stream_id)

    def _say_once_that_it_is_over(self) -> None:
        if not self.is_over:
            self.is_over = True
            _log.warning("agent reports more than is remembered", agent=str(self._agent))


def _room(report: types_pb2.StreamReport) -> int:
    """What it takes in memory, about: an empty resource is two bytes on the wire, and not here."""
    return report.ByteSize() + _BYTES_OF_EACH * (1 + len(report.resources))


def _kept(report: types_pb2.StreamReport) -> types_pb2.StreamReport:
    """A copy, since a part of a message keeps the whole message in memory; with texts that can be shown and stored.

    What an agent says of a stream comes into logs, alarms and the audit log, and an agent may be anybody's by now.
    """
    kept = types_pb2.StreamReport()
    kept.CopyFrom(report)
    for message in (kept, *kept.resources):
        for field, value in message.ListFields():
            if field.type == field.TYPE_STRING:
                limit = _MOST_WORDS if field.name in _WORDS else _MOST_NAME
                if len(value) > limit or not value.isprintable():
                    setattr(message, field.name, printable(value, limit))
    return kept
