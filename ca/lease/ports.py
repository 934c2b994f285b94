"""What the lease needs of the store."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

from ca.lease.model import Holder, Lease, Sight


class LeaseStore(Protocol):
    """Where the lease is recorded. Every call raises `Unavailable` (`store_unavailable`) where the store fails."""

    async def prepare(self) -> None:
        """Make room for the lease in a store that is new, and change nothing else."""
        ...

    async def look(self) -> Sight:
        """The lease as it is, without a claim to it; works where nothing can be written."""
        ...

    async def take(self, holder: Holder, *, duration: timedelta, returning: bool) -> Lease | None:
        """Take the lease if `Sight.may_be_taken_by` allows it; `None` if not.

        Waits for transactions that the holder before has open, so that none of them ends after this.
        """
        ...

    async def renew(self, lease: Lease) -> bool:
        """Move its end to `duration` from now; false, and nothing is changed, where it was taken meanwhile."""
        ...

    async def release(self, lease: Lease) -> None:
        """End it now; nothing where it was taken meanwhile."""
        ...
