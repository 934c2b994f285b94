"""Calls to an API server that many may want at once: each is made once for all of them, and few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

_Answer = TypeVar("_Answer")


class SharedCalls(Generic[_Answer]):
    """Makes at most `most` at a time, and keeps no answer."""

    def __init__(self, most: int) -> None:
        self._places = asyncio.Semaphore(most)
        self._under_way: dict[Hashable, asyncio.Task[_Answer]] = {}

    async def once(self, key: Hashable, call: Callable[[], Coroutine[Any, Any, _Answer]]) -> _Answer:
        """What `call` answers, or another one under the same `key` that is under way. Raises what that raises."""
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.create_task(self._make(call))
            task.add_done_callback(lambda done: self._ended(key, done))
        return await asyncio.shield(task)  # others may wait for it

    async def _make(self, call: Callable[[], Coroutine[Any, Any, _Answer]]) -> _Answer:
        async with self._places:
            return await call()

    def _ended(self, key: Hashable, task: asyncio.Task[_Answer]) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody need have
