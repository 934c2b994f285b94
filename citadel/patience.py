"""Waiting for many things at once, each no longer than the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

_Result = TypeVar("_Result")


class Patience:
    """Waits for each thing up to `seconds`, with one timer for all: asyncio's own timeout makes one for each.

    Lives on one event loop; a task waits for one thing at a time.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._until: dict[asyncio.Task[object], float] = {}  # whose time ends first stands first
        self._over: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, what: Awaitable[_Result]) -> _Result:
        """The result of `what`. Raises `TimeoutError` when it does not come in time; `what` is cancelled then."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task can wait")
        self._until[task] = loop.time() + self.seconds
        if self._timer is None:
            self._timer = loop.call_later(self.seconds, self._look, loop)
        try:
            return await what
        except asyncio.CancelledError:
            if task not in self._over or task.uncancel():  # somebody else has cancelled it
                raise
            raise TimeoutError from None
        finally:
            self._until.pop(task, None)
            self._over.discard(task)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now, self._timer = loop.time(), None
        for task, until in tuple(self._until.items()):
            if until > now:
                self._timer = loop.call_at(until, self._look, loop)
                return
            del self._until[task]
            self._over.add(task)
            task.cancel()
