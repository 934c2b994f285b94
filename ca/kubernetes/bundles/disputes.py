"""What somebody else changes again and again: it is put back, but two who do so do not race each other."""

from __future__ import annotations

from typing import Final

from citadel.clock import Clock

_FIRST: Final = 1.0  # seconds before something is put back for the second time; twice as long each time, up to
_LONGEST: Final = 60.0
_FORGOTTEN_AFTER: Final = 300.0  # seconds without a change


class Disputes:
    """How soon to put back what others have changed: at once, and later each time that it happens again soon."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._open: dict[str, tuple[float, float]] = {}  # the last pause, and when it was changed

    def pause(self, key: str) -> float:
        """It was changed by somebody else: in how many seconds to put it back."""
        now = self._clock.monotonic()
        last, changed_at = self._open.get(key, (0.0, -_FORGOTTEN_AFTER))
        pause = 0.0 if now - changed_at >= _FORGOTTEN_AFTER else min(_LONGEST, max(_FIRST, last * 2))
        self._open[key] = (pause, now)
        return pause

    def is_open(self, key: str) -> bool:
        """Whether it was changed again soon after it had been put back, and not long ago."""
        pause, changed_at = self._open.get(key, (0.0, 0.0))
        return pause > 0 and self._clock.monotonic() - changed_at < _FORGOTTEN_AFTER

    def open(self) -> list[str]:
        """Everything of which this is so."""
        return [key for key in self._open if self.is_open(key)]

    def forget(self, key: str) -> None:
        """There is no such thing any more."""
        self._open.pop(key, None)
