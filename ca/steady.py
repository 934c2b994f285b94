"""A clock for deciding that something has ended, which a jump of the wall clock does not fool."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from citadel.clock import Clock

TOLERANCE: Final = timedelta(seconds=5)  # clocks that are kept in step drift no further between two looks at this
_SET_RIGHT_WITHIN: Final = 600.0  # seconds after the start of a machine
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)


class SteadyTime:
    """The wall clock, but never ahead of where the clock that never jumps has brought it since the start.

    An hour's jump ahead makes certificates look ended that peers, whose clocks are right, still take.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._begun = clock.now()
        self._begun_monotonic = clock.monotonic()

    @property
    def jump(self) -> timedelta:
        """By how much the wall clock has jumped since the start; negative where it was set back."""
        return self._clock.now() - self.unmoved()

    def now(self) -> datetime:
        """The earlier of the two."""
        return min(self._clock.now(), self.unmoved())

    def certain(self) -> datetime:
        """The earlier of the two once the process has run for a while; before, nothing has certainly ended.

        A machine may be started with a clock that is days ahead, which is set right only then.
        """
        is_young = self._clock.monotonic() - self._begun_monotonic < _SET_RIGHT_WITHIN
        return _LONG_AGO if is_young else self.now()

    def latest(self) -> datetime:
        """The later of the two: for what must not come too late, while nothing is lost if it comes early."""
        return max(self._clock.now(), self.unmoved())

    def unmoved(self) -> datetime:
        """The time as if the wall clock had never jumped: for what must come neither too early nor too late."""
        return self._begun + timedelta(seconds=self._clock.monotonic() - self._begun_monotonic)
