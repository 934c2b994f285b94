"""Concurrent requests for signatures share calls."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from ca.keys.transit.gathering import Gathering, Outcome
from citadel.errors import Reason, Unavailable

AWAY = Unavailable(Reason.VAULT_UNAVAILABLE, "away")
WRONG = Unavailable(Reason.VAULT_REFUSED, "wrong")


class Elsewhere:
    """Signs by adding an exclamation mark, as soon as it is let."""

    def __init__(self) -> None:
        self.calls: list[Sequence[bytes]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.fails: BaseException | None = None

    async def sign(self, messages: Sequence[bytes]) -> Sequence[Outcome]:
        self.calls.append(messages)
        await self.may_answer.wait()
        if self.fails is not None:
            raise self.fails
        return [WRONG if message == b"bad" else message + b"!" for message in messages]


async def test_what_comes_while_a_call_is_under_way_goes_together_with_the_next() -> None:
    there = Elsewhere()
    gathering = Gathering(there.sign, limit=10)
    there.may_answer.clear()
    first = asyncio.create_task(gathering.sign([b"a"]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    others = [asyncio.create_task(gathering.sign(each)) for each in ([b"b"], [b"c", b"d"])]
    await asyncio.sleep(0)
    there.may_answer.set()
    assert await asyncio.gather(first, *others) == [[b"a!"], [b"b!"], [b"c!", b"d!"]]
    assert there.calls == [[b"a"], [b"b", b"c", b"d"]]


async def test_no_call_has_more_than_the_limit_and_the_order_stays() -> None:
    there = Elsewhere()
    gathering = Gathering(there.sign, limit=3)
    wanted = [[b"a", b"b"], [b"c", b"d", b"e", b"f"], [b"g"]]
    found = await asyncio.gather(*(gathering.sign(each) for each in wanted))
    assert found == [[message + b"!" for message in each] for each in wanted]
    assert there.calls == [[b"a", b"b", b"c"], [b"d", b"e", b"f"], [b"g"]]


async def test_one_wrong_message_fails_its_request_and_no_other() -> None:
    gathering = Gathering(Elsewhere().sign, limit=2)
    found = await asyncio.gather(
        gathering.sign([b"a", b"bad", b"never asked", b"for"]), gathering.sign([b"b"]), return_exceptions=True
    )
    assert found == [WRONG, [b"b!"]]


async def test_who_gives_up_is_not_asked_for_any_more() -> None:
    there = Elsewhere()
    gathering = Gathering(there.sign, limit=2)
    there.may_answer.clear()
    early = asyncio.create_task(gathering.sign([b"a", b"b", b"c"]))
    late = asyncio.create_task(gathering.sign([b"d"]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    early.cancel()
    there.may_answer.set()
    assert await late == [b"d!"]
    assert there.calls == [[b"a", b"b"], [b"d"]]


async def test_a_call_that_fails_fails_all_that_it_asked_for_and_the_next_is_made() -> None:
    there = Elsewhere()
    gathering, there.fails = Gathering(there.sign, limit=10), AWAY
    found = await asyncio.gather(gathering.sign([b"a"]), gathering.sign([b"b"]), return_exceptions=True)
    assert found == [AWAY, AWAY]
    there.fails = None
    assert await gathering.sign([b"c"]) == [b"c!"]


async def test_nobody_waits_for_ever_where_a_call_ends_in_a_bug() -> None:
    there = Elsewhere()
    gathering, there.fails = Gathering(there.sign, limit=10), ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await gathering.sign([b"a"])
    there.fails = None
    assert await gathering.sign([b"c"]) == [b"c!"]


async def test_nothing_is_asked_for_nothing() -> None:
    there = Elsewhere()
    assert await Gathering(there.sign, limit=10).sign([]) == []
    assert there.calls == []
