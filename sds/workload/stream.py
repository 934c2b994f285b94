"""One stream of the Workload API as it stands, and how the registry is told."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any, Final

from citadel._wire import types_pb2
from citadel.peer import Caller
from citadel.wire import to_timestamp
from sds.serve.callers import Attestation
from sds.serve.registry import StreamRegistry
from sds.workload.answer import Answer

# How long a caller is kept waiting for a certificate that is being made, before it is told to come again. Signing takes
# some ten milliseconds where the server is there.
PATIENCE: Final = 5.0  # seconds

_PROTOCOL: Final = "workload-api"


class LiveStream:
    """One stream: its caller, what was sent last, and how long it has waited for something that is being made."""

    def __init__(self, caller: Caller, registry: StreamRegistry, *, now: datetime) -> None:
        self.id = registry.begin(caller)
        self.caller = caller
        self.wake = asyncio.Event()
        self.attestation = Attestation(selectors=frozenset())
        self.answer: Answer[Any] | None = None
        self._written: Answer[Any] | None = None
        self._registry = registry
        self._connected_at = now
        self._waits_until: float | None = None

    def begin(self, answer: Answer[Any]) -> None:
        """`answer` is about to be written."""
        self.answer = answer
        self._registry.change(self.id, self._report)

    def has_written(self, answer: Answer[Any]) -> None:
        """`answer` was written: nobody acknowledges on this API, so this is all that can be known.

        The same message may come with new facts: a bundle's sequence also rises with its JWT keys.
        """
        if answer is not self._written:
            self.answer = self._written = answer
            self._registry.change(self.id, self._report)

    def patience_left(self, now: float, *, is_pending: bool) -> float | None:
        """Seconds that the caller still waits for its first certificate; None while it waits for nothing."""
        if not is_pending:
            self._waits_until = None
            return None
        if self._waits_until is None:
            self._waits_until = now + PATIENCE
        return self._waits_until - now

    def _report(self) -> types_pb2.StreamReport:
        credentials = self.caller.credentials
        report = types_pb2.StreamReport(
            stream_id=self.id,
            protocol=_PROTOCOL,
            pid=credentials.pid,
            uid=credentials.uid,
            gid=credentials.gid,
            executable=self.attestation.executable,
            resources=self.answer.about if self.answer is not None else (),
            connected_at=to_timestamp(self._connected_at),
        )
        written = {each.name: each for each in self._written.about} if self._written is not None else {}
        for resource in report.resources:
            is_written = self.answer is self._written
            resource.state = types_pb2.ResourceReport.ACKNOWLEDGED if is_written else types_pb2.ResourceReport.SENT
            if (held := written.get(resource.name)) is not None:
                _tell_held(held, resource)
        return report


def _tell_held(held: types_pb2.ResourceReport, report: types_pb2.ResourceReport) -> None:
    report.held_version, report.held_serial = held.version, held.serial
    report.held_bundle_sequence, report.held_issuer_key_id = held.bundle_sequence, held.issuer_key_id
    report.held_revocation_version = held.revocation_version
    if held.HasField("not_after"):
        report.held_not_after.CopyFrom(held.not_after)
