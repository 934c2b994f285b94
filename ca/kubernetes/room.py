"""Room for calls that wait for an API server, so that a slow one keeps no other cluster's callers out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Final

from citadel.errors import Reason, ResourceExhausted

_HALF: Final = 2


class Room:
    """Half of it belongs to the clusters in equal parts, and the other half to whoever comes first.

    So one cluster may have nearly all of it, and whatever others hold, its part is free for it.
    """

    def __init__(self, most: int, *, clusters: int) -> None:
        """`most` calls in all."""
        self._own = max(1, most // _HALF // max(1, clusters))
        self._common = max(0, most - self._own * clusters)
        self._open: Counter[Hashable] = Counter()
        self._beyond = 0  # those of all clusters that have no place in its own part

    @contextmanager
    def one(self, cluster: Hashable) -> Iterator[None]:
        """While one more call for this cluster goes on. Raises `ResourceExhausted` (`too_many_requests`)."""
        if self._open[cluster] >= self._own:
            if self._beyond >= self._common:
                raise ResourceExhausted(
                    Reason.TOO_MANY_REQUESTS,
                    f"{self._open[cluster]} calls wait for the API server of this cluster",
                    fix="try again later",
                )
            self._beyond += 1
        self._open[cluster] += 1
        try:
            yield
        finally:
            if self._open[cluster] > self._own:
                self._beyond -= 1
            self._open[cluster] -= 1
