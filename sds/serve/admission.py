"""How many streams the callers of one user may hold open: memory is the node's, and each stream costs some."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from citadel.errors import Reason, ResourceExhausted


class StreamLimit:
    """Counts open streams. Root is not counted, who has other ways to stop this process."""

    def __init__(self, *, most_per_uid: int) -> None:
        self._most = most_per_uid
        self._open: Counter[int] = Counter()

    @contextmanager
    def admitted(self, uid: int) -> Iterator[None]:
        """One more stream of this user for the length of the block.

        Raises:
            ResourceExhausted: `too_many_requests` when the user has all that it may.
        """
        if uid != 0 and self._open[uid] >= self._most:
            raise ResourceExhausted(
                Reason.TOO_MANY_REQUESTS,
                f"uid {uid} has {self._most} streams open",
                fix="close some, or raise limits.max_streams_per_uid of the agent",
            )
        self._open[uid] += 1
        try:
            yield
        finally:
            self._open[uid] -= 1
            if not self._open[uid]:
                del self._open[uid]
