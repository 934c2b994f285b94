"""Waking many without a standstill."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Final

_WOKEN_AT_ONCE: Final = 32


class Waking:
    """Thousands are woken some at a time, so that the first have been served before the last are woken.

    All at once would need the memory of all their answers at once, and leave nobody else a turn meanwhile. Lives on one
    event loop.
    """

    def __init__(self) -> None:
        self._to_wake: deque[asyncio.Event] = deque()

    def wake(self, events: Iterable[asyncio.Event]) -> None:
        """Set them all soon, instead of those that a call before has left."""
        is_waking = bool(self._to_wake)
        self._to_wake = deque(events)
        if not is_waking:
            self._wake_some()

    def _wake_some(self) -> None:
        for _ in range(min(_WOKEN_AT_ONCE, len(self._to_wake))):
            self._to_wake.popleft().set()
        if self._to_wake:
            asyncio.get_running_loop().call_soon(self._wake_some)
