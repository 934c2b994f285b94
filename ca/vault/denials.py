"""What Vault's policy has lately not allowed, path by path."""

from __future__ import annotations

from typing import Final

from citadel.clock import Clock
from citadel.errors import CitadelError

_STANDS: Final = 600.0  # seconds after the last one: what is not asked again is no worry for ever
_MOST: Final = 100  # paths can have names that are asked for once


class Denials:
    """One for each call: that another one is allowed mends none."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._of: dict[str, tuple[CitadelError, float]] = {}

    def add(self, what: str, error: CitadelError) -> None:
        """`what` was denied, now."""
        self._expire()
        if what in self._of or len(self._of) < _MOST:
            self._of[what] = (error, self._clock.monotonic())

    def allowed(self, what: str) -> bool:
        """It was not denied any more. Returns whether it had been."""
        return self._of.pop(what, None) is not None

    def first(self) -> CitadelError | None:
        """The one that began first."""
        self._expire()
        return next((error for error, _ in self._of.values()), None)

    def _expire(self) -> None:
        now = self._clock.monotonic()
        self._of = {what: each for what, each in self._of.items() if now - each[1] <= _STANDS}
