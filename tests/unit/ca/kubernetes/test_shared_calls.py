"""Calls that many want at once: what a slow API server could not answer soon is refused at once."""

from __future__ import annotations

import asyncio

import pytest

from ca.kubernetes.shared_calls import SharedCalls
from citadel.errors import Reason
from citadel.kubernetes.ports import ApiUnavailable

AT_ONCE, WAITING = 2, 128


class Slow:
    """Answers once it is released."""

    def __init__(self) -> None:
        self.begun = 0
        self.released = asyncio.Event()

    async def call(self) -> str:
        self.begun += 1
        await self.released.wait()
        return "yes"


async def test_who_comes_when_many_wait_is_refused_at_once_and_the_others_have_their_answers() -> None:
    calls, slow = SharedCalls[str](AT_ONCE), Slow()
    asking = [asyncio.create_task(calls.once(number, slow.call)) for number in range(AT_ONCE + WAITING)]
    await asyncio.sleep(0)
    for _ in range(3):
        with pytest.raises(ApiUnavailable) as refused:
            await calls.once("new", slow.call)
        assert refused.value.reason is Reason.KUBERNETES_UNAVAILABLE
    same = asyncio.create_task(calls.once(0, slow.call))  # it takes no place
    await asyncio.sleep(0)
    assert slow.begun == AT_ONCE
    slow.released.set()
    assert await asyncio.gather(same, *asking) == ["yes"] * (1 + len(asking))
    assert slow.begun == len(asking)
    assert await calls.once("new", slow.call) == "yes"


async def test_who_has_waited_too_long_for_its_turn_is_refused_and_its_place_is_free() -> None:
    calls, slow = SharedCalls[str](AT_ONCE, patience=0.01), Slow()
    made = [asyncio.create_task(calls.once(number, slow.call)) for number in range(AT_ONCE)]
    async with asyncio.timeout(10):
        for _ in range(2):
            waiting = [calls.once(f"w{number}", slow.call) for number in range(WAITING)]
            answers = await asyncio.gather(*waiting, return_exceptions=True)
            assert {type(answer) for answer in answers} == {ApiUnavailable}
        slow.released.set()
        assert await asyncio.gather(*made) == ["yes"] * AT_ONCE
        assert await calls.once("new", slow.call) == "yes"
    assert slow.begun == AT_ONCE + 1
