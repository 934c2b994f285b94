"""What became of rotations, one change after the other, for those who watch."""

from __future__ import annotations

from collections import deque
from typing import Final

from ca.rotation.model import Rotation

_MOST: Final = 64  # some rotations' worth: who looks less often than these come misses some


class Changes:
    """The last changes. Whoever watches looks from time to time, and some phases are shorter than that."""

    def __init__(self) -> None:
        self._last: deque[Rotation] = deque(maxlen=_MOST)
        self.count = 0

    def note(self, rotation: Rotation) -> None:
        """The rotation is as this says from now on."""
        self._last.append(rotation)
        self.count += 1

    def since(self, count: int) -> tuple[Rotation, ...]:
        """What was noted after there were `count`, the oldest first, as far as it is kept."""
        news = self.count - count
        return tuple(self._last)[-news:] if news else ()
