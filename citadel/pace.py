"""How soon something that failed is tried again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from citadel.clock import Clock

_FIRST: Final = 1.0  # seconds


class Pace:
    """Twice as long after each failure, up to `longest`, and up to a quarter less: not all servers in one instant."""

    def __init__(self, *, clock: Clock, draw: Callable[[], float]) -> None:
        """`draw` gives numbers from 0 up to 1, as `random.random` does."""
        self._clock = clock
        self._draw = draw
        self._pause = _FIRST
        self._next = 0.0

    @property
    def wait(self) -> float:
        """In how many seconds it may be tried again; 0 when it may be now."""
        return max(0.0, self._next - self._clock.monotonic())

    def failed(self, *, longest: float) -> None:
        """Another failure."""
        pause = min(self._pause, longest)
        self._next = self._clock.monotonic() + pause * (1 - self._draw() / 4)
        self._pause = min(pause * 2, longest)

    def worked(self) -> None:
        """The next failure is a first one again."""
        self._pause, self._next = _FIRST, 0.0
