"""Authorities whose keys are gone for good: others take their places, however long these had to live."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from citadel.clock import Clock

LOST: Final = "its key is gone from Vault, and signs nothing"
_SECONDS_BETWEEN: Final = 10.0  # where the other one does not come either


class LostKeys:
    """Says when another authority is to be tried for."""

    def __init__(self, is_lost: Callable[[str], bool], *, clock: Clock) -> None:
        self._is_lost = is_lost
        self._clock = clock
        self._tried = ("", 0.0)

    def is_due(self, key_id: str) -> bool:
        """Whether this key is lost, and the last try for another one is not a moment ago."""
        now, (tried, again_at) = self._clock.monotonic(), self._tried
        if not self._is_lost(key_id) or (tried == key_id and now < again_at):
            return False
        self._tried = (key_id, now + _SECONDS_BETWEEN)
        return True
