"""What the store is known to be like, without asking it."""

from __future__ import annotations

from citadel.probes import Check, Health


class StoreHealth:
    """What the last transaction that could have written said. A renewal of the lease is one, so it is never old."""

    def __init__(self) -> None:
        self._problem: str | None = None

    def note(self, problem: str | None) -> None:
        """Remember what is wrong, or with `None` that nothing is."""
        self._problem = problem

    def check(self) -> Check:
        """A line of `/ready`. A server without its store serves what it has: degraded, not dead."""
        if self._problem is None:
            return Check("store", Health.GOOD, "takes what is written")
        return Check("store", Health.DEGRADED, self._problem)
