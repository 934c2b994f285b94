"""Large batches of signatures, made off the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from ca.keys.kinds import AuthorityKey
from ca.keys.remote import SigningKey
from ca.keys.signing import in_two_passes

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


class SigningWorker:
    """One thread and no more.

    Half of the work holds the interpreter's lock, so a second one would take turns with it and keep the loop waiting.
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def map(self, function: Callable[[_Item], _Made], items: Sequence[_Item], *, inline: int) -> list[_Made]:
        """`function` of each item, in their order. So few as `inline` are done on the loop."""
        if len(items) <= inline:
            return [function(item) for item in items]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: [function(item) for item in items])

    async def sign(
        self, key: SigningKey, build: Callable[[AuthorityKey, _Item], _Made], items: Sequence[_Item], *, inline: int
    ) -> list[_Made]:
        """What `build` makes of each item with this key, in their order; as `ca.keys.signing.sign_with`.

        So few as `inline` are signed on the loop, see `ca.keys.signing.most_inline`.
        """
        if isinstance(key, AuthorityKey):
            return await self.map(partial(build, key), items, inline=inline)
        return await in_two_passes(key, lambda stand_in: self.map(partial(build, stand_in), items, inline=inline))

    def close(self) -> None:
        """End the thread; whatever large batch has not begun is cancelled."""
        self._thread.shutdown(wait=False, cancel_futures=True)
