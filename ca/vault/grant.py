"""A token that Vault looked at: how long it lasts, and what is to be done about that (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

_DUE_AT: Final = 2 / 3  # of the lease
_JITTER: Final = 0.1  # of it: servers that were started together do not all come at once
_SHRUNK: Final = 0.9  # a renewal that gives less than this of the lease before comes to its longest life


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Times are of the monotonic clock. `lease` is what the token had at its log-in, and none where it has no end."""

    token: str = field(repr=False)
    is_renewable: bool
    lease: float | None
    ends: float | None
    due: float | None

    @classmethod
    def of(cls, token: str, found: Mapping[str, Any], *, now: float, draw: float) -> Self:
        """By what Vault knows of it. `draw` is from 0 up to 1."""
        lease = float(found.get("ttl") or 0) or None
        made = cls(token=token, is_renewable=bool(found.get("renewable")), lease=lease, ends=None, due=None)
        return made.renewed(lease, now=now, draw=draw) if lease is not None else made

    def renewed(self, lease: float, *, now: float, draw: float) -> Self:
        """With a new lease."""
        due = now + lease * (_DUE_AT - _JITTER * draw)
        return replace(self, lease=max(lease, self.lease or 0.0), ends=now + lease, due=due)

    def seen(self, found: Mapping[str, Any], *, now: float) -> Self:
        """As Vault sees it now: the clock of a machine that slept has not, and an end can have been brought forward."""
        left = float(found.get("ttl") or 0)
        if self.due is None or left <= 0:
            return self
        return replace(self, ends=now + left, due=min(self.due, now + left * _DUE_AT))

    def left(self, now: float) -> float:
        """The seconds until its end; 0 for one without."""
        return max(0.0, self.ends - now) if self.ends is not None else 0.0

    def is_due(self, now: float) -> bool:
        """Whether something must be done so that it does not end."""
        return self.due is not None and self.due <= now

    def has_ended(self, now: float) -> bool:
        """Whether Vault has forgotten it by now."""
        return self.ends is not None and self.ends <= now

    def has_shrunk(self, lease: float) -> bool:
        """Whether a renewal that gives this one has come to the end of what can be renewed."""
        return self.lease is not None and lease < self.lease * _SHRUNK
