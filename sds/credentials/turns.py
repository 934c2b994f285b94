"""What the server may be asked for next: no more at a time than it takes, and of each pod in turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from citadel.clock import Clock
from citadel.errors import ResourceExhausted
from citadel.limiter import RateLimiter
from sds.credentials.book import Key


class Turns:
    """Lets names through. A pod that asks for others all the time holds up itself, and nobody for long."""

    def __init__(self, *, per_second: float, burst: float, clock: Clock) -> None:
        self._rate = RateLimiter(clock=clock, per_second=per_second, burst=burst)

    def take(self, new: Iterable[Key]) -> Sequence[Key]:
        """Those of `new` whose turn it is: the first of each entry, then the second; the older goes before."""
        before: Counter[str] = Counter()
        ranked: list[tuple[int, Key]] = []
        for key in new:
            ranked.append((before[key[0]], key))
            before[key[0]] += 1
        taken: list[Key] = []
        try:
            for _, key in sorted(ranked, key=lambda each: each[0]):
                self._rate.admit(())
                taken.append(key)
        except ResourceExhausted:  # the others wait
            pass
        return taken
