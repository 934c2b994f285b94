"""What every stream was sent and what its proxy said, and a feed of the changes for the server."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from itertools import count, islice
from types import MappingProxyType
from typing import Final

from citadel._wire import types_pb2
from citadel.clock import Clock
from citadel.peer import Caller, Process
from citadel.wire import to_timestamp
from sds.serve.lingering import MOST_LINGERING, Lingering
from sds.serve.resource import BundleFacts, CredentialFacts, Resource, SvidFacts
from sds.serve.standing import Held, Standing, State

# While nobody takes the changes, ended streams pile up. The oldest may go: whoever comes back begins with a snapshot.
MAX_ENDED: Final = 10_000

# Of names that nothing was sent for, any local process can make up as many and as long ones as a request holds.
MAX_WAITING: Final = 8
MAX_WAITING_CHARACTERS: Final = 256

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})

_MOST_LOOKED_AT: Final = 16  # so that a process with thousands of streams can close them all at once

_STATES: Final = {
    State.WAITING: types_pb2.ResourceReport.WAITING,
    State.SENT: types_pb2.ResourceReport.SENT,
    State.ACKNOWLEDGED: types_pb2.ResourceReport.ACKNOWLEDGED,
    State.REFUSED: types_pb2.ResourceReport.REFUSED,
}


class StreamRegistry:
    """How each stream stands, also a closed one whose process goes on with what it was given: at most `most_lingering`.

    Lives on one event loop; a report that was given out is never changed afterwards. A report is made when somebody
    asks for it, so that a stream that changes often costs no more than a quiet one.
    """

    def __init__(self, *, clock: Clock, most_lingering: int = MOST_LINGERING) -> None:
        self._ids = count(1)
        self._processes: dict[str, tuple[int, Process]] = {}
        self._of_pid: defaultdict[int, set[str]] = defaultdict(set)
        self._live: dict[str, Callable[[], types_pb2.StreamReport]] = {}
        self._lingering = Lingering(clock=clock, on_change=self._note, on_gone=self._gone, most=most_lingering)
        self._changed: dict[str, None] = {}
        self._ended: dict[str, types_pb2.StreamReport] = {}
        self._watchers: set[asyncio.Event] = set()

    def begin(self, caller: Caller) -> str:
        """An id for a stream of this caller, unique within this run; `end` must follow."""
        stream_id = str(next(self._ids))
        pid = caller.credentials.pid
        self._processes[stream_id] = (pid, caller.process.hold())
        self._of_pid[pid].add(stream_id)
        return stream_id

    def change(self, stream_id: str, make_report: Callable[[], types_pb2.StreamReport]) -> None:
        """The stream is live and stands otherwise than before; `make_report` says how, whenever it is called."""
        self._live[stream_id] = make_report
        self._note(stream_id)

    def end(self, stream_id: str) -> None:
        """The stream has ended; unknown ones are ignored."""
        make_report, known = self._live.pop(stream_id, None), self._processes.pop(stream_id, None)
        if known is not None:
            self._of_pid[known[0]].discard(stream_id)
            if not self._of_pid[known[0]]:
                del self._of_pid[known[0]]
        if make_report is not None:
            self._note_end(make_report(), known[1] if known is not None else None)
        if known is not None:
            known[1].let_go()

    def live(self) -> list[types_pb2.StreamReport]:
        """All open streams."""
        return [make_report() for make_report in self._live.values()]

    def snapshot(self) -> list[types_pb2.StreamReport]:
        """All open streams, and those that were closed and count."""
        live = self.live()
        self._bring_up_to_date(live)
        return [*live, *map(self._lingering.report, self._lingering)]

    def take_changed(self) -> list[types_pb2.StreamReport]:
        """The streams that changed since the last call, and those that count no more, marked `closed`."""
        live = [self._live[stream_id]() for stream_id in self._changed if stream_id in self._live]
        self._bring_up_to_date(live)
        lingering = [self._lingering.report(stream_id) for stream_id in self._changed if stream_id in self._lingering]
        taken = [*live, *lingering, *self._ended.values()]
        self._changed, self._ended = {}, {}
        return taken

    def close(self) -> None:
        """Let go of every process; no stream is open any more."""
        self._lingering.close()

    def watch(self, event: asyncio.Event) -> None:
        """Set `event` at every change from now on."""
        self._watchers.add(event)

    def unwatch(self, event: asyncio.Event) -> None:
        """Stop setting `event`."""
        self._watchers.discard(event)

    def _bring_up_to_date(self, reports: Iterable[types_pb2.StreamReport]) -> None:
        for report in reports:
            self._lingering.supersede(report)
        self._lingering.forget_ended()

    def _note(self, stream_id: str) -> None:
        if stream_id not in self._changed:
            self._changed[stream_id] = None
            self._wake()

    def _note_end(self, report: types_pb2.StreamReport, process: Process | None) -> None:
        if process is None or not self._lingering.take(report, process):
            self._gone(report.stream_id)
            return
        self._note(report.stream_id)
        # Another stream of the process may hold it too. One that is not looked at here is when it changes.
        for stream_id in islice(self._of_pid.get(report.pid, ()), _MOST_LOOKED_AT):
            if stream_id in self._live and report.stream_id in self._lingering:
                self._lingering.supersede(self._live[stream_id]())

    def _gone(self, stream_id: str) -> None:
        self._changed.pop(stream_id, None)
        self._ended[stream_id] = types_pb2.StreamReport(stream_id=stream_id, closed=True)
        if len(self._ended) > MAX_ENDED:
            del self._ended[next(iter(self._ended))]
        self._wake()

    def _wake(self) -> None:
        for event in self._watchers:
            event.set()


def resource_reports(
    standings: Iterable[Standing], why: Mapping[str, str] = _NOTHING
) -> list[types_pb2.ResourceReport]:
    """The standings of a stream as they are reported: all that was sent, and some of what waits, shortened.

    `why` says of some names what keeps them from being there, or from being newer.
    """
    reports, waiting = [], 0
    for standing in standings:
        if not standing.refusal and (reason := why.get(standing.name)):
            standing = replace(standing, refusal=reason)  # noqa: PLW2901 - the same, told with the reason
        if standing.resource is not None:
            reports.append(_report(standing))
        elif (waiting := waiting + 1) <= MAX_WAITING:
            reports.append(_report(replace(standing, name=_shortened(standing.name))))
    return reports


def _shortened(name: str) -> str:
    # The mark is in no name that is ever sent, so that a shortened one is never taken for one of those.
    return name if len(name) <= MAX_WAITING_CHARACTERS else f"{name[: MAX_WAITING_CHARACTERS - 1]}…"


def _report(standing: Standing) -> types_pb2.ResourceReport:
    report = types_pb2.ResourceReport(name=standing.name, state=_STATES[standing.state], refusal=standing.refusal)
    if standing.resource is not None:
        _tell_sent(standing.resource, report)
    if standing.held is not None:
        _tell_held(standing.held, report)
    return report


def _tell_sent(resource: Resource, report: types_pb2.ResourceReport) -> None:
    report.version = resource.version
    match resource.facts:
        case SvidFacts(spiffe_id, serial, not_after, issuer):
            report.spiffe_id, report.serial, report.issuer_key_id = spiffe_id, serial, issuer
            report.not_after.CopyFrom(to_timestamp(not_after))
        case BundleFacts(trust_domain, sequence, revocations):
            report.trust_domain, report.bundle_sequence = trust_domain, sequence
            report.revocation_version = revocations
        case CredentialFacts(serial, datetime() as not_after):
            report.serial = serial
            report.not_after.CopyFrom(to_timestamp(not_after))


def _tell_held(held: Held, report: types_pb2.ResourceReport) -> None:
    report.held_version = held.version
    match held.facts:
        case SvidFacts(_, serial, not_after, issuer):
            report.held_serial, report.held_issuer_key_id = serial, issuer
            report.held_not_after.CopyFrom(to_timestamp(not_after))
        case BundleFacts(_, sequence, revocations):
            report.held_bundle_sequence, report.held_revocation_version = sequence, revocations
        case CredentialFacts(serial, datetime() as not_after):
            report.held_serial = serial
            report.held_not_after.CopyFrom(to_timestamp(not_after))
