"""A token bucket per caller."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from citadel.clock import Clock
from citadel.errors import Reason, ResourceExhausted

_MOST_CALLERS: Final = 10_000


class RateLimiter:
    """Allows each caller `per_second` of something, and `burst` at once; remembers a bounded number of callers."""

    def __init__(self, *, clock: Clock, per_second: float, burst: float | None = None) -> None:
        """Without `burst` it is what a second allows, at least one."""
        self._clock = clock
        self._rate = per_second
        self._burst = max(1.0, per_second) if burst is None else burst
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def at_least(self, per_second: float) -> RateLimiter:
        """Another one on the same clock with buckets of its own, at this one's rate or `per_second` if that is more."""
        return RateLimiter(clock=self._clock, per_second=max(self._rate, per_second))

    def admit(self, caller: Hashable, *, count: int = 1) -> None:
        """Take `count`, all or nothing. Raises `ResourceExhausted` (`too_many_requests`)."""
        now = self._clock.monotonic()
        level, at = self._buckets.pop(caller, (self._burst, now))
        level = min(self._burst, level + (now - at) * self._rate)
        allowed = level >= count
        self._buckets[caller] = (level - count if allowed else level, now)
        if len(self._buckets) > _MOST_CALLERS:
            self._buckets.popitem(last=False)
        if not allowed:
            raise ResourceExhausted(Reason.TOO_MANY_REQUESTS, "too many requests; try again later")
