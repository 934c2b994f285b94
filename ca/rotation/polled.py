"""Federated trust domains: they acknowledge nothing, look for the own bundle again and again, and are given time."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from ca.rotation.model import Holder, Phase, Rotation, RotationKind
from citadel.clock import Clock

NAME: Final = "federation"  # what a person may skip
HINTS: Final = 3  # how often they must have been able to look, by FED-38
_CHANGE_THE_BUNDLE: Final = frozenset({RotationKind.ROOT, RotationKind.JWT})


class Polled:
    """How long an observation lasts at least. `hint` is how often others look; None where they are served nothing.

    Counted by a clock that never jumps, and anew after a restart: an observation may last longer, never less long.
    """

    def __init__(self, *, hint: timedelta | None, clock: Clock) -> None:
        self._hint = hint
        self._clock = clock
        self._begun: tuple[str, float] | None = None

    def begin(self, rotation: Rotation) -> None:
        """A phase begins. What is new is in the bundle from here on."""
        self._begun = (rotation.id, self._clock.monotonic()) if rotation.phase is Phase.OBSERVE else None

    def least(self, kind: RotationKind) -> timedelta:
        """How long a rotation of this kind observes for it."""
        return HINTS * self._hint if self._hint is not None and kind in _CHANGE_THE_BUNDLE else timedelta(0)

    def left(self, rotation: Rotation, now: datetime) -> list[Holder]:
        """As somebody who is waited for, until its time has come."""
        least = self.least(rotation.kind)
        if not least or rotation.phase is not Phase.OBSERVE:
            return []
        began = self._begun[1] if self._begun is not None and self._begun[0] == rotation.id else self._clock.monotonic()
        until = now + least - timedelta(seconds=self._clock.monotonic() - began)
        words = "other trust domains look for the new bundle by themselves, and must have had the time for it"
        return [Holder(name=NAME, words=words, until=until, is_mere_time=True)]
