from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from grpc import aio

from citadel.config.types import HostPort
from citadel.errors import CitadelError, PermissionDenied, Reason, Unavailable
from citadel.line import Line
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
        channels={HostPort("127.0.0.1", 1): aio.insecure_channel("127.0.0.1:1")},
        api=lambda channel: channel,
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


class Turns:
    """Servers of which at most one is open; notes which were asked, and when."""

    def __init__(self, clock: FakeClock, *ports: int) -> None:
        self.clock = clock
        self.channels = {HostPort("127.0.0.1", port): aio.insecure_channel(f"127.0.0.1:{port}") for port in ports}
        self.line = Line(
            channels=self.channels,
            api=lambda channel: channel,
            new_stream=self._stream,
            reconnect=ReconnectSettings(initial=timedelta(milliseconds=200), maximum=timedelta(seconds=30)),
            clock=clock,
        )
        self.ports = {id(stub): port for (_, stub), port in zip(self.line._servers, ports, strict=True)}
        self.open: int | None = None
        self._closed = asyncio.Event()
        self.asked: list[int] = []
        self.refuses = False

    def let(self, port: int | None) -> None:
        """Open this one, and no other."""
        self.open = port
        self._closed.set()
        self._closed = asyncio.Event()

    def _stream(self, on_synced: Callable[[], None]) -> Any:
        turns = self

        class Stream:
            async def run(self, api: object) -> None:
                port = turns.ports[id(api)]
                turns.asked.append(port)
                if turns.open == port and turns.refuses:
                    raise PermissionDenied(Reason.AGENT_BANNED, "banned")
                if turns.open == port:
                    on_synced()
                    await turns._closed.wait()
                raise TOO_LARGE

        return Stream()

    def on(self) -> int | None:
        return self.ports[id(self.line.api)] if self.line.is_up else None


@pytest.fixture
async def turns() -> AsyncIterator[Turns]:
    made = Turns(FakeClock(), 1, 2, 3)
    made.let(1)
    running = asyncio.create_task(made.line.run())
    await made.clock.advance(60)
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_the_first_choice_is_tried_first_and_kept_while_it_answers(turns: Turns) -> None:
    turns.let(1)
    assert (turns.on(), turns.asked) == (1, [1])


@pytest.mark.parametrize("away", [1.0, 60.0])
@pytest.mark.parametrize("opens", [1, 2, 3])
async def test_whichever_server_opens_is_found_within_a_little_more_than_a_second(
    turns: Turns, opens: int, away: float
) -> None:
    turns.let(None)
    await turns.clock.advance(away)
    turns.let(opens)
    await turns.clock.advance(1.1)
    assert turns.on() == opens


async def test_a_server_that_restarts_is_asked_before_the_others(turns: Turns) -> None:
    turns.let(2)
    await turns.clock.advance(60)
    before = len(turns.asked)
    turns.let(None)
    await turns.clock.advance(0.01)
    turns.let(2)
    await turns.clock.advance(1.1)
    assert turns.on() == 2
    assert turns.asked[before] == 2


async def test_closed_doors_are_not_knocked_at_without_a_pause(turns: Turns) -> None:
    turns.let(None)
    await turns.clock.advance(10)
    before = len(turns.asked)
    await turns.clock.advance(60)
    assert 3 * 60 <= len(turns.asked) - before <= 3 * 60 * 4  # some two rounds a second, at random moments


async def test_an_agent_that_the_open_server_refuses_waits_as_with_one_server(turns: Turns) -> None:
    turns.let(2)
    turns.refuses = True
    await turns.clock.advance(60)
    before = len(turns.asked)
    await turns.clock.advance(300)
    assert len(turns.asked) - before == 3 * 10
