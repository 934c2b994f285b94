"""Waiting for whichever comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from citadel.clock import Clock


async def first_of(*awaited: Coroutine[Any, Any, object]) -> None:
    """Return when one of `awaited` has ended; the others are cancelled."""
    tasks = [asyncio.ensure_future(each) for each in awaited]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def news_or_time(news: asyncio.Event, seconds: float, *, clock: Clock) -> None:
    """Return when `news` is set or `seconds` of `clock` have passed."""
    await first_of(news.wait(), clock.sleep(seconds))
