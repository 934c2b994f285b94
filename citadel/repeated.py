"""What goes wrong again and again, and is to be said now and then."""

from __future__ import annotations

from typing import Final

from citadel.clock import Clock

_SAY_AGAIN: Final = 60.0  # seconds


class Repeated:
    """Knows what was said last, and when."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._said = ""
        self._said_at = 0.0

    def is_news(self, what: str) -> bool:
        """Whether this is to be said: it is something else than before, or was said a minute ago."""
        now = self._clock.monotonic()
        if what == self._said and now - self._said_at < _SAY_AGAIN:
            return False
        self._said, self._said_at = what, now
        return True

    def is_over(self) -> None:
        """It has gone well: the next trouble is news."""
        self._said = ""
