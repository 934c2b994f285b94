"""Waiting for many things at once, each no longer than the same time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from citadel.patience import Patience


async def never() -> None:
    await asyncio.Event().wait()


async def test_what_comes_in_time_is_given_and_what_it_raises_is_raised() -> None:
    patience = Patience(10)

    async def fails() -> None:
        raise ValueError("x")

    assert await patience.wait(asyncio.sleep(0, "here")) == "here"
    with pytest.raises(ValueError, match="x"):
        await patience.wait(fails())


async def test_each_has_the_whole_time_whenever_it_begins() -> None:
    patience, loop = Patience(0.1), asyncio.get_running_loop()

    async def waited(after: float) -> float:
        await asyncio.sleep(after)
        begun = loop.time()
        with pytest.raises(TimeoutError):
            await patience.wait(never())
        return loop.time() - begun

    async with asyncio.timeout(10):
        taken = await asyncio.gather(*(waited(0.01 * number) for number in range(5)))
    assert min(taken) >= 0.099
    # And once more after nobody has waited for a while.
    assert await waited(0) >= 0.099


async def test_what_waits_is_told_and_nothing_else_is_cancelled() -> None:
    patience, told = Patience(0.01), asyncio.Event()

    async def tells() -> None:
        try:
            await never()
        finally:
            told.set()

    async def goes_on() -> str:
        with pytest.raises(TimeoutError):
            await patience.wait(tells())
        return await asyncio.sleep(0.05, "went on")

    assert await asyncio.create_task(goes_on()) == "went on"
    assert told.is_set()


async def test_who_is_cancelled_by_somebody_else_is_not_told_of_a_timeout() -> None:
    patience = Patience(10)
    task: asyncio.Task[Any] = asyncio.create_task(patience.wait(never()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_who_is_cancelled_at_the_very_end_stays_cancelled() -> None:
    patience, loop = Patience(0.0), asyncio.get_running_loop()
    task: asyncio.Task[Any] = asyncio.create_task(patience.wait(never()))
    loop.call_soon(patience._look, loop)
    loop.call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
