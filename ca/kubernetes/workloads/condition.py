"""How it is with the identities of a cluster's pods, for metrics and people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from citadel._wire import admin_pb2

_SHOWN: Final = 10  # problems; all of them are in the log


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadCondition:
    """`admitted` pods are to have an entry, of which people may have registered some. `problems` are by pod."""

    admitted: int
    entries: int
    problems: Mapping[str, str]

    def status(self) -> admin_pb2.WorkloadStatus:
        """As `citadel-cli status` shows it."""
        shown = sorted(self.problems.items())[:_SHOWN]
        return admin_pb2.WorkloadStatus(
            admitted=self.admitted,
            entries=self.entries,
            problems=len(self.problems),
            shown=[f"{pod}: {problem}" for pod, problem in shown],
        )
