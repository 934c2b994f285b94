"""Calls that many want at once: what a slow API server could not answer soon is refused at once."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

from ca.kubernetes.shared_calls import SharedCalls
from citadel.errors import Reason
from citadel.kubernetes.ports import ApiUnavailable
from tests.clock import FakeClock

AT_ONCE = 2


class Asking:
    """Those who ask an API server that answers once it is released."""

    def __init__(self, *, patience: float = 5.0) -> None:
        self.clock = FakeClock()
        self.calls = SharedCalls[str](AT_ONCE, clock=self.clock, patience=patience)
        self.begun = 0
        self.released = asyncio.Event()
        self.waiting: list[asyncio.Task[str]] = []

    async def call(self) -> str:
        self.begun += 1
        await self.released.wait()
        return "yes"

    async def ask(self, *keys: Hashable) -> None:
        """Ask for each, and wait for the answers later."""
        self.waiting += [asyncio.create_task(self.calls.once(key, self.call)) for key in keys]
        for _ in range(3):
            await asyncio.sleep(0)

    async def refused(self, key: Hashable) -> bool:
        """Whether one more is, in this moment; otherwise it waits."""
        await self.ask(key)
        if not self.waiting[-1].done():
            return False
        refusal = self.waiting.pop().exception()
        assert isinstance(refusal, ApiUnavailable)
        assert refusal.reason is Reason.KUBERNETES_UNAVAILABLE
        return True

    async def all_answered(self) -> bool:
        """Let the API server answer."""
        self.released.set()
        answers = await asyncio.gather(*self.waiting)
        self.waiting.clear()
        self.released.clear()
        return set(answers) == {"yes"}


async def test_a_burst_waits_its_turn_up_to_a_number() -> None:
    asking = Asking()
    await asking.ask(*range(1000))
    assert asking.begun == AT_ONCE
    assert await asking.refused("one more")
    await asking.ask(999)  # it waits for the same answer as another one, and takes no place
    assert await asking.all_answered()
    assert asking.begun == 1000
    assert not await asking.refused("one more")
    assert await asking.all_answered()


async def test_the_longer_none_is_answered_the_fewer_wait() -> None:
    asking = Asking()
    await asking.ask(*range(8))  # two are made, and one more would be in the fourth turn after theirs
    asking.clock.leap(1)
    assert not await asking.refused("a")
    asking.clock.leap(1)
    assert await asking.refused("b")
    assert await asking.all_answered()


async def test_who_waits_for_what_hangs_is_refused_at_once_until_something_is_answered() -> None:
    asking = Asking()
    await asking.ask("a", "b")
    asking.clock.leap(6)
    assert await asking.refused("c")
    assert await asking.all_answered()
    await asking.ask("d", "e")  # whoever needs not wait is never refused
    assert await asking.refused("f")
    assert await asking.all_answered()
    await asking.ask("g", "h")
    assert not await asking.refused("i")
    assert await asking.all_answered()


async def test_who_has_waited_too_long_for_its_turn_is_refused_and_its_place_is_free() -> None:
    asking = Asking(patience=0.01)
    await asking.ask("a", "b")
    for _ in range(2):
        late = (asking.calls.once(number, asking.call) for number in range(100))
        answers = await asyncio.gather(*late, return_exceptions=True)
        assert {type(answer) for answer in answers} == {ApiUnavailable}
    assert await asking.all_answered()
    assert not await asking.refused("c")
    assert await asking.all_answered()
    assert asking.begun == AT_ONCE + 1
