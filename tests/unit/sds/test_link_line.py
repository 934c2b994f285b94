from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from grpc import aio

from citadel.config.types import HostPort
from citadel.errors import CitadelError, PermissionDenied, Reason, Unavailable
from sds.link.line import Line
from sds.settings import ReconnectSettings
from tests.clock import FakeClock

TOO_LARGE = Unavailable(Reason.SERVER_UNREACHABLE, "ended")
HOUR = 3600


class FakeStreams:
    """Makes streams that come up, if they do, and end with `error` after `up_for` seconds; notes when each began."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.begun: list[float] = []
        self.up_for: float | None = None
        self.error: CitadelError = TOO_LARGE

    def __call__(self, on_synced: Callable[[], None]) -> Any:
        streams = self

        class Stream:
            async def run(self, _: object) -> None:
                streams.begun.append(streams.clock.monotonic())
                if streams.up_for is not None:
                    on_synced()
                    await streams.clock.sleep(streams.up_for)
                raise streams.error

        return Stream()

    async def begun_in(self, seconds: float) -> int:
        before = len(self.begun)
        for _ in range(round(seconds * 10)):
            await self.clock.advance(0.1)
        return len(self.begun) - before


@pytest.fixture
async def streams() -> AsyncIterator[FakeStreams]:
    clock = FakeClock()
    made = FakeStreams(clock)
    line = Line(
        address=HostPort("127.0.0.1", 1),
        channel=aio.insecure_channel("127.0.0.1:1"),
        new_stream=made,
        reconnect=ReconnectSettings(initial=timedelta(milliseconds=200), maximum=timedelta(seconds=30)),
        clock=clock,
    )
    running = asyncio.create_task(line.run())
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("up_for", [None, 0.0, 1.0])
async def test_streams_that_end_soon_are_opened_ever_more_seldom(streams: FakeStreams, up_for: float | None) -> None:
    streams.up_for = up_for
    await streams.begun_in(120)
    assert 1 <= await streams.begun_in(300) <= 60  # some 20 of 15 s on average, not 1500


async def test_after_a_steady_stream_the_next_one_begins_at_once(streams: FakeStreams) -> None:
    await streams.begun_in(120)  # up to the longest waits
    streams.up_for = 10.0
    await streams.begun_in(60)
    assert await streams.begun_in(102) >= 9


async def test_a_refusal_is_tried_again_at_the_slowest_pace(streams: FakeStreams) -> None:
    streams.error = PermissionDenied(Reason.AGENT_BANNED, "banned")
    assert await streams.begun_in(100) == 4
