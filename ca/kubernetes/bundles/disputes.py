"""What somebody else changes again and again: it is put back, but two who do so do not race each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from citadel.clock import Clock
from citadel.pace import Pace

_LONGEST: Final = 60.0  # seconds before something is put back
_FORGOTTEN_AFTER: Final = 300.0  # seconds without a change


@dataclass(slots=True)
class _Dispute:
    pace: Pace
    changed_at: float


class Disputes:
    """How soon to put back what others have changed: at once, and later each time that it happens again soon."""

    def __init__(self, *, clock: Clock, draw: Callable[[], float]) -> None:
        self._clock = clock
        self._draw = draw
        self._open: dict[str, _Dispute] = {}

    def pause(self, key: str) -> float:
        """It was changed by somebody else: in how many seconds to put it back."""
        now = self._clock.monotonic()
        dispute = self._open.get(key)
        if dispute is None or now - dispute.changed_at > _FORGOTTEN_AFTER:
            dispute = self._open[key] = _Dispute(Pace(clock=self._clock, draw=self._draw), now)
        dispute.changed_at = now
        wait = dispute.pace.wait
        dispute.pace.failed(longest=_LONGEST)
        return wait

    def forget(self, key: str) -> None:
        """There is no such thing any more."""
        self._open.pop(key, None)
