"""What the parent's side of a shared root needs of the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from ca.audit.model import Act
from ca.clusters.gaps import Gap
from ca.clusters.model import ChildAuthority
from citadel._wire import clusters_pb2 as pb
from citadel.spiffe import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptReport:
    """What a child said last, as far as it was believed."""

    child: SpiffeId
    report: pb.ClusterReport
    at: datetime


class ChildStore(Protocol):
    """Where it is durable what was signed for children, and what they said."""

    async def authorities(self, now: datetime) -> Sequence[ChildAuthority]:
        """Every authority that has not ended, the oldest first."""
        ...

    async def record(self, authority: ChildAuthority, act: Act) -> None:
        """Insert it, forget those that had ended when it was signed, and note the act with it."""
        ...

    async def gaps(self) -> Sequence[Gap]:
        """The times of which it knows nothing, since it was restored."""
        ...

    async def reports(self) -> Sequence[KeptReport]:
        """What every child said last."""
        ...

    async def keep(self, report: KeptReport) -> None:
        """Keep it in the place of the one before."""
        ...

    async def forget(self, child: SpiffeId) -> None:
        """Forget what this child said."""
        ...
