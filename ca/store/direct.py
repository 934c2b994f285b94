"""A second way into a SQLite file, for what is written often: a whole transaction in one change of threads.

The asynchronous driver goes to its thread and back for each statement, a dozen times a transaction, and on a busy
server each way waits for the interpreter's lock: measured, that took more time than the rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import URL, Connection

from ca.store.engines import make_plain_engine

_T = TypeVar("_T")


class DirectSqlite:
    """Runs transactions one after another, in a thread of its own."""

    def __init__(self, url: URL) -> None:
        """`url` names the file and the asynchronous driver. Nothing is opened yet."""
        self._engine = make_plain_engine(url)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")

    async def run(self, work: Callable[[Connection], _T]) -> _T:
        """What `work` returns, once its transaction is durable. Raises what it raises; then nothing was written.

        Whoever gives up waiting does not stop it: it may still come through.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work)

    async def close(self) -> None:
        """Let the transaction under way end, and close the file."""
        await asyncio.to_thread(self._thread.shutdown)
        self._engine.dispose()

    def _transact(self, work: Callable[[Connection], _T]) -> _T:
        with self._engine.begin() as connection:
            return work(connection)
