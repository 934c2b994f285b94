"""Names as the system resolves them, in threads that do nothing else.

A look-up whose DNS server keeps silent takes half a minute, and nothing can end it. In the pool that certificates are
renewed in, a few of them would leave no thread for that.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from threading import Thread
from typing import Final

# Blocks. Raises `OSError` and `UnicodeError`.
LookUp = Callable[[str, int], Sequence[str]]

_MOST: Final = 100


def look_up_by_system(host: str, port: int) -> Sequence[str]:
    """All addresses of `host`, as the system has them."""
    return [str(address[0]) for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Lookups:
    """Looks names up for many askers. Each has one look-up at a time; that it gave one up does not end it."""

    def __init__(self, look_up: LookUp, *, most: int = _MOST) -> None:
        self._look_up = look_up
        self._most = most
        self._under_way: set[Hashable] = set()

    async def addresses(self, asker: Hashable, host: str, port: int) -> Sequence[str]:
        """All addresses of `host`. Raises `OSError` and `UnicodeError`: at once while an earlier look-up hangs."""
        if asker in self._under_way:
            raise OSError("an earlier look-up has not been answered yet")
        if len(self._under_way) >= self._most:
            raise OSError(f"{self._most} other look-ups have not been answered yet")
        answer: Future[Sequence[str]] = Future()
        answer.set_running_or_notify_cancel()  # from now on nobody can cancel it
        answer.add_done_callback(lambda _: self._under_way.discard(asker))
        self._under_way.add(asker)
        # Not an executor, whose threads a process waits for when it ends.
        thread = Thread(target=self._answer, args=(answer, host, port), name="look-up", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            answer.set_exception(OSError(f"no thread: {error}"))
        return await asyncio.wrap_future(answer)

    def _answer(self, answer: Future[Sequence[str]], host: str, port: int) -> None:
        try:
            answer.set_result(self._look_up(host, port))
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            answer.set_exception(error)
