"""How much one caller may have signed, so that none has the signing thread, or the ledger's disk, for itself."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from citadel.clock import Clock
from citadel.errors import InvalidArgument, Reason
from citadel.limiter import RateLimiter

# A node that starts, or a rotation, asks for all that it has at once.
_BURST_SECONDS: Final = 20


class Quota:
    """So many in one call, and `per_second` in the long run with 20 seconds' worth of them at once."""

    def __init__(self, *, max_batch: int, per_second: float, clock: Clock) -> None:
        self._max_batch = max_batch
        burst = max(float(max_batch), _BURST_SECONDS * per_second)
        self._limiter = RateLimiter(clock=clock, per_second=per_second, burst=burst)

    def take(self, caller: Hashable, count: int) -> None:
        """Take `count`, all or nothing.

        Raises `InvalidArgument` (`batch_too_large`) or `ResourceExhausted` (`too_many_requests`).
        """
        self.check(count)
        self._limiter.admit(caller, count=count)

    def check(self, count: int) -> None:
        """Raise `InvalidArgument` (`batch_too_large`) for more than one call may ask for."""
        if count > self._max_batch:
            raise InvalidArgument(
                Reason.BATCH_TOO_LARGE, f"{count} requests in one call; {self._max_batch} are allowed"
            )
