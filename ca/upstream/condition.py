"""How it is with where the issuing authority comes from, for probes and for people (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from citadel._wire import admin_pb2
from citadel.config.types import format_duration
from citadel.errors import CitadelError
from citadel.probes import Check, Health
from citadel.wire import to_timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamCondition:
    """`trouble` is why nothing new comes from there, `since` since when, `lasts_until` when nothing is issued then.

    `notes` are what came otherwise than asked for, or than one might think.
    """

    kind: str
    source: str = ""
    trouble: CitadelError | None = None
    since: datetime | None = None
    lasts_until: datetime | None = None
    notes: tuple[str, ...] = ()

    def status(self) -> admin_pb2.UpstreamStatus:
        """As `citadel-cli status` shows it."""
        if self.trouble is None:
            return admin_pb2.UpstreamStatus(kind=self.kind, source=self.source, good=True, notes=self.notes)
        return admin_pb2.UpstreamStatus(
            kind=self.kind,
            source=self.source,
            reason=self.trouble.reason.value,
            message=str(self.trouble),
            since=to_timestamp(self.since) if self.since is not None else None,
            lasts_until=to_timestamp(self.lasts_until) if self.lasts_until is not None else None,
            notes=self.notes,
        )

    def check(self, now: datetime) -> Check:
        """As `/ready` says it: what was issued goes on, so that it is no reason to be taken for dead."""
        if self.trouble is None:
            return Check("upstream", Health.GOOD, self.kind)
        return Check("upstream", Health.DEGRADED, f"{self.trouble}{self._countdown(now)}")

    def _countdown(self, now: datetime) -> str:
        if self.lasts_until is None:
            return ""
        left = timedelta(seconds=(self.lasts_until - now) // timedelta(seconds=1))
        if left <= timedelta(0):
            return "; nothing is issued now"
        return f"; nothing is issued from {self.lasts_until.isoformat(timespec='seconds')}, in {format_duration(left)}"
