"""Waiting for the clock or for news, whichever comes first."""

from __future__ import annotations

import asyncio

from citadel.clock import Clock


async def news_or_time(news: asyncio.Event, seconds: float, *, clock: Clock) -> None:
    """Return when `news` is set or `seconds` of `clock` have passed."""
    waiting = {asyncio.ensure_future(news.wait()), asyncio.ensure_future(clock.sleep(seconds))}
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
