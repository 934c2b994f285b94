"""Threads of calls to Vault: they return, raise, and keep nobody waiting."""

from __future__ import annotations

import asyncio
from threading import Event

import pytest

from ca.vault.threads import Threads


async def test_what_a_call_returns_and_raises() -> None:
    threads = Threads(at_a_time=1)
    assert await threads.run(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 // 0)


async def test_a_call_that_is_given_up_goes_on_and_lets_others_begin_up_to_a_limit() -> None:
    threads, end = Threads(at_a_time=1, most=2), Event()
    try:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(threads.run(lambda: end.wait(10)), 0.02)
        with pytest.raises(OSError, match="2 calls have not ended yet"):
            await threads.run(lambda: 7)
    finally:
        end.set()
    async with asyncio.timeout(5):
        while True:
            try:
                assert await threads.run(lambda: 7) == 7
            except OSError:
                await asyncio.sleep(0.002)
            else:
                break


async def test_no_more_than_so_many_go_at_a_time() -> None:
    threads, end, begun = Threads(at_a_time=2), Event(), []
    calls = [asyncio.create_task(threads.run(lambda: (begun.append(1), end.wait(10)))) for _ in range(5)]
    async with asyncio.timeout(5):
        while len(begun) < 2:
            await asyncio.sleep(0.002)
    assert len(begun) == 2
    end.set()
    await asyncio.gather(*calls)
    assert len(begun) == 5
