"""Calls to an API server that many may want at once: each is made once for all of them, and few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Final, Generic, TypeVar

from citadel.clock import Clock
from citadel.kubernetes.ports import ApiUnavailable

_MOST: Final = 1000  # that are made or wait for that
_PATIENCE: Final = 5.0  # seconds

_Answer = TypeVar("_Answer")


class SharedCalls(Generic[_Answer]):
    """Makes at most `at_once` at a time, and keeps no answer.

    Nobody waits long for that: who would, as fast as the API server answers just now, is refused at once. Whoever wants
    to know asks again, and is not held here meanwhile.
    """

    def __init__(self, at_once: int, *, clock: Clock, patience: float = _PATIENCE) -> None:
        """`patience` is how many seconds a call waits to be made."""
        self._at_once = at_once
        self._clock = clock
        self._patience = patience
        self._places = asyncio.Semaphore(at_once)
        self._under_way: dict[Hashable, asyncio.Task[_Answer]] = {}
        self._took = 0.0  # seconds, the one that ended last
        self._begun_at = 0.0  # the one that began last

    async def once(self, key: Hashable, call: Callable[[], Coroutine[Any, Any, _Answer]]) -> _Answer:
        """What `call` answers, or another one under the same `key` that is under way.

        Raises what that raises, and `Unavailable` where it would wait, or has waited, for too long.
        """
        task = self._under_way.get(key)
        if task is None:
            if len(self._under_way) >= _MOST or self._wait() > self._patience:
                raise _too_slow()
            task = self._under_way[key] = asyncio.create_task(self._make(call))
            task.add_done_callback(lambda done: self._ended(key, done))
        return await asyncio.shield(task)  # others may wait for it

    def _wait(self) -> float:
        """For how many seconds one more would wait. While none ends, the next one takes as long as that has been so."""
        still = self._clock.monotonic() - self._begun_at if self._places.locked() else 0.0
        return len(self._under_way) // self._at_once * max(self._took, still)

    async def _make(self, call: Callable[[], Coroutine[Any, Any, _Answer]]) -> _Answer:
        try:
            async with asyncio.timeout(self._patience):
                await self._places.acquire()
        except TimeoutError as error:
            raise _too_slow() from error
        begun_at = self._begun_at = self._clock.monotonic()
        try:
            return await call()
        finally:
            self._took = self._clock.monotonic() - begun_at
            self._places.release()

    def _ended(self, key: Hashable, task: asyncio.Task[_Answer]) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody need have


def _too_slow() -> ApiUnavailable:
    return ApiUnavailable("the API server is too slow for all that it is asked")
