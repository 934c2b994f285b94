"""Calls that block, off the loop, each in a thread of its own."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import Any, Final, TypeVar

_MOST: Final = 100  # that have not ended, waited for or not: each holds a connection

_Result = TypeVar("_Result")


class Threads:
    """So many at a time are waited for. One that is given up goes on by itself until it ends.

    It keeps nobody waiting: neither other calls, nor the end of this process, as the threads of an executor would.
    """

    def __init__(self, *, at_a_time: int, most: int = _MOST) -> None:
        self._turn = asyncio.Semaphore(at_a_time)
        self._most = most
        self._under_way: set[Future[Any]] = set()

    async def run(self, call: Callable[[], _Result]) -> _Result:
        """What `call` returns or raises. Raises `OSError` where there can be no more threads."""
        async with self._turn:
            if len(self._under_way) >= self._most:
                raise OSError(errno.EAGAIN, f"{self._most} calls have not ended yet")
            answer: Future[_Result] = Future()
            answer.set_running_or_notify_cancel()  # from now on nobody can cancel it
            answer.add_done_callback(self._under_way.discard)
            self._under_way.add(answer)
            try:
                Thread(target=_answer, args=(answer, call), name="vault", daemon=True).start()
            except RuntimeError as error:
                answer.set_exception(OSError(errno.EAGAIN, f"no thread: {error}"))
            return await asyncio.wrap_future(answer)


def _answer(answer: Future[_Result], call: Callable[[], _Result]) -> None:
    try:
        answer.set_result(call())
    except BaseException as error:  # noqa: BLE001 - raised where it is waited for
        answer.set_exception(error)
