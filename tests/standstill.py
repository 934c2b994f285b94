"""How long one step of the loop takes, by the work of its own thread: neighbours on the machine do not count."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

LONG = 0.5  # seconds of work, in which a loop serves nobody else; a step of ours takes some hundredths


@contextlib.asynccontextmanager
async def no_standstill(at_most: float = LONG) -> AsyncIterator[None]:
    """No turn of the loop takes more work than this while the body runs."""
    longest = 0.0

    async def measure() -> None:
        nonlocal longest
        while True:
            begun = time.thread_time()
            try:
                await asyncio.sleep(0)
            finally:
                longest = max(longest, time.thread_time() - begun)

    measuring = asyncio.create_task(measure())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        await asyncio.sleep(0)
        measuring.cancel()
        await asyncio.gather(measuring, return_exceptions=True)
    assert longest < at_most, f"the loop stood still for {longest:.2f} s of work"
