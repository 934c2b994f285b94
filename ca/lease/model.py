"""The lease as it stands in the store, and who may take it. Every moment here is of the database's clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A server. `id` is its own, for as long as its data_dir lives; `name` tells people where it is."""

    id: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Who owns the store until when. `epoch` rises each time that the lease is taken, never when it is renewed."""

    holder: Holder
    epoch: int
    expires_at: datetime
    duration: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What a look at the store showed: the lease, if one was ever taken, and the time there."""

    lease: Lease | None
    now: datetime

    def remaining(self) -> timedelta:
        """How long the lease still excludes others; zero or less when it does not.

        An end that is further away than the lease lasts was written before the clock went back, and says nothing.
        """
        if self.lease is None:
            return timedelta(0)
        left = self.lease.expires_at - self.now
        return left if left <= self.lease.duration else timedelta(0)

    def may_be_taken_by(self, holder: Holder, *, returning: bool) -> bool:
        """Whether `holder` may take the lease now.

        A `returning` server has just started and holds the lock of its data_dir: a lease of its own is one that its
        killed predecessor left behind. Later the same id in the store means that data_dir was copied, and that the
        copy runs somewhere.
        """
        if self.lease is not None and returning and self.lease.holder.id == holder.id:
            return True
        return self.remaining() <= timedelta(0)
