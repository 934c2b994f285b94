"""How much of something goes on at once, in all and for each caller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from math import inf

from citadel.errors import Reason, ResourceExhausted


class InFlight:
    """Counts what is under way: `open` by caller. Lives on one event loop."""

    def __init__(self, *, most_of_one: int, most: float = inf, what: str, fix: str = "try again later") -> None:
        """`what` names it in a refusal, such as "calls"; `fix` says what can be done."""
        self.open: Counter[Hashable] = Counter()
        self._all = 0
        self._most = most
        self._most_of_one = most_of_one
        self._what = what
        self._fix = fix

    @contextmanager
    def one(self, caller: Hashable) -> Iterator[None]:
        """While one more of `caller` goes on. Raises `ResourceExhausted` (`too_many_requests`)."""
        if self.open[caller] >= self._most_of_one:
            raise self._refused(f"{self._most_of_one} {self._what} of this caller")
        if self._all >= self._most:
            raise self._refused(f"{self._most} {self._what} of all callers together")
        self.open[caller] += 1
        self._all += 1
        try:
            yield
        finally:
            self._all -= 1
            self.open[caller] -= 1
            if not self.open[caller]:
                del self.open[caller]

    def _refused(self, what: str) -> ResourceExhausted:
        return ResourceExhausted(Reason.TOO_MANY_REQUESTS, f"{what} are under way", fix=self._fix)
