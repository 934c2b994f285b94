from __future__ import annotations

import asyncio

from sds.holdings import Holdings, HoldingsFeed
from tests.unit.sds.holding import entry, holdings


async def test_everybody_is_woken_some_at_a_time() -> None:
    """All at once would need the memory of all their answers at once, and leave nobody else a turn."""
    feed, events = HoldingsFeed(), [asyncio.Event() for _ in range(1000)]
    for event in events:
        feed.watch(event)
    feed.publish(Holdings())
    woken = sum(event.is_set() for event in events)
    assert 0 < woken < 100
    turns = 0
    while not all(event.is_set() for event in events):
        await asyncio.sleep(0)
        turns += 1
    assert turns < 100


async def test_a_change_while_others_are_still_woken_wakes_everybody_again() -> None:
    feed, events = HoldingsFeed(), [asyncio.Event() for _ in range(200)]
    for event in events:
        feed.watch(event)
    feed.publish(Holdings())
    await asyncio.sleep(0)
    for event in events:
        event.clear()  # these have looked
    feed.publish(Holdings())
    async with asyncio.timeout(5):
        await asyncio.gather(*(event.wait() for event in events))


async def test_who_stops_watching_is_left_alone() -> None:
    feed, event = HoldingsFeed(), asyncio.Event()
    feed.watch(event)
    feed.unwatch(event)
    feed.unwatch(event)
    feed.publish(Holdings())
    assert not event.is_set()


def test_no_entries_mean_nothing_before_the_server_has_told_them() -> None:
    assert not Holdings().is_told
    assert holdings([]).is_told
    assert holdings([entry("web")]).is_told
