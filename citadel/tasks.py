"""Work that must not be cut in half."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end even where the caller is cancelled meanwhile.

    gRPC cancels a handler when its client goes away. Between a commit and the memory that follows it that would leave
    the two apart until the next start.
    """
    return await asyncio.shield(asyncio.ensure_future(work))
