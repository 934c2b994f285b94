"""Calls to an API server that many may want at once: each is made once for all of them, and few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Final, Generic, TypeVar

from citadel.kubernetes.ports import ApiUnavailable

_MOST_WAITING: Final = 128  # with those that are made, fewer than one address may have calls of proxies
_PATIENCE: Final = 5.0  # seconds
_Answer = TypeVar("_Answer")


class SharedCalls(Generic[_Answer]):
    """Makes at most `most` at a time, and keeps no answer.

    Only so many wait for that, and not for long: what a slow API server could not answer soon is refused at once, and
    asked again by whoever wants to know, who is not held here meanwhile.
    """

    def __init__(self, most: int, *, patience: float = _PATIENCE) -> None:
        """`patience` is how many seconds a call waits to be made."""
        self._most = most + _MOST_WAITING
        self._patience = patience
        self._places = asyncio.Semaphore(most)
        self._under_way: dict[Hashable, asyncio.Task[_Answer]] = {}

    async def once(self, key: Hashable, call: Callable[[], Coroutine[Any, Any, _Answer]]) -> _Answer:
        """What `call` answers, or another one under the same `key` that is under way.

        Raises what that raises, and `Unavailable` where too many wait, or this one did for too long.
        """
        task = self._under_way.get(key)
        if task is None:
            if len(self._under_way) >= self._most:
                raise ApiUnavailable(f"{self._most} calls to the API server are made or wait to be")
            task = self._under_way[key] = asyncio.create_task(self._make(call))
            task.add_done_callback(lambda done: self._ended(key, done))
        return await asyncio.shield(task)  # others may wait for it

    async def _make(self, call: Callable[[], Coroutine[Any, Any, _Answer]]) -> _Answer:
        try:
            async with asyncio.timeout(self._patience):
                await self._places.acquire()
        except TimeoutError as error:
            raise ApiUnavailable("the API server is too slow for all that it is asked") from error
        try:
            return await call()
        finally:
            self._places.release()

    def _ended(self, key: Hashable, task: asyncio.Task[_Answer]) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody need have
