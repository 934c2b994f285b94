"""One line to a Citadel server: channels with fixed credentials, and a stream that is opened again for ever.

There can be several servers, of which one is active and the others wait in its place with closed doors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Final, Generic, Protocol, TypeVar

import structlog
from grpc import aio
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random, wait_random_exponential

from citadel.clock import Clock
from citadel.config.types import HostPort
from citadel.errors import CitadelError, PermissionDenied, Reason, Unauthenticated
from citadel.waiting import first_of

_GRACE: Final = 15.0  # seconds for calls in flight when a line is left
# With several servers another one may open at any moment, and it is found by asking. A closed door costs it nothing.
_LONGEST_ROUND: Final = 1.0  # seconds between rounds
# A stream that ends sooner counts as a failed try: what ended it may end the next one just as soon.
_STEADY: Final = 5.0  # seconds

_log = structlog.get_logger(__name__)

_Api = TypeVar("_Api")
_Api_contra = TypeVar("_Api_contra", contravariant=True)


class Pace(Protocol):
    """How soon it is tried again: exponential with full jitter, from `initial` up to `maximum`."""

    @property
    def initial(self) -> timedelta: ...

    @property
    def maximum(self) -> timedelta: ...


class Stream(Protocol[_Api_contra]):
    """One stream, from its beginning to its end."""

    async def run(self, api: _Api_contra) -> None:
        """Run until it ends; always raises a `CitadelError` that says why."""
        ...


NewStream = Callable[[Callable[[], None]], Stream[_Api]]


class Line(Generic[_Api]):
    """Reconnects with exponential backoff and full jitter; slowly where the server refuses this agent.

    Each try goes round `channels`, which has one or more, beginning with the server that was heard last. `synced` is
    set once and for all when the first snapshot was taken on this line.
    """

    def __init__(
        self,
        *,
        channels: Mapping[HostPort, aio.Channel],
        api: Callable[[aio.Channel], _Api],
        new_stream: NewStream[_Api],
        reconnect: Pace,
        clock: Clock,
        peer: str = "server",
    ) -> None:
        """`peer` is what the log calls the other side."""
        self._channels = channels
        self._servers = [(address, api(channel)) for address, channel in channels.items()]
        self._peer = peer
        self._new_stream = new_stream
        self._reconnect = reconnect
        self._clock = clock
        self._troubles: dict[HostPort, Reason] = {}
        self._up_since: float | None = None
        longest = reconnect.maximum.total_seconds()
        self._jittered = wait_random_exponential(
            multiplier=reconnect.initial.total_seconds(),
            max=longest if len(channels) == 1 else min(longest, _LONGEST_ROUND),
        )
        self.is_up = False
        self.is_left = False  # another line is about to take its place: the server may end this one first
        self.trouble: CitadelError | None = None  # why it is not
        self.synced = asyncio.Event()

    @property
    def api(self) -> _Api:
        """The server that was heard last, or the one that is being tried."""
        return self._servers[0][1]

    async def run(self) -> None:
        """Keep the stream up until cancelled; then close the channels, when the calls in flight have ended."""
        try:
            while True:
                # Ends when a stream that was steady has ended; the next one starts with the shortest wait again.
                await self._until_it_was_steady()
        finally:
            self.is_up = False
            await asyncio.gather(*(channel.close(_GRACE) for channel in self._channels.values()))

    async def _until_it_was_steady(self) -> None:
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(CitadelError), wait=self._wait, sleep=self._clock.sleep, reraise=True
        )
        async for attempt in attempts:
            with attempt:
                await self._one_round()
        # Also after a steady stream: without it, all agents of a restarted server would be back in one instant.
        shortest = wait_random(max=self._reconnect.initial.total_seconds())
        await self._clock.sleep(shortest(attempt.retry_state))

    async def _one_round(self) -> None:
        """Try each server until one was heard. Raises what says most of why none was, or was for long enough."""
        errors: list[CitadelError] = []
        while len(errors) < len(self._servers):
            error = await self._one_stream()
            if self._up_since is not None:
                if self._clock.monotonic() - self._up_since < _STEADY:
                    raise error
                return
            errors.append(error)
            self._servers.append(self._servers.pop(0))
        raise next((error for error in errors if _is_refusal(error)), errors[-1])

    async def _one_stream(self) -> CitadelError:
        """Run a stream to its end, and say why it ended."""
        self._up_since = None
        stream = self._new_stream(self._came_up)
        try:
            await stream.run(self.api)
        except CitadelError as error:
            self._went_down(error)
            return error
        raise AssertionError("a stream ends with the reason")

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if _is_refusal(error):
            return self._reconnect.maximum.total_seconds()
        return self._jittered(state)

    def _came_up(self) -> None:
        _log.info(f"connected to the {self._peer}", server=str(self._servers[0][0]))
        self._troubles.clear()
        self._up_since = self._clock.monotonic()
        self.is_up, self.trouble = True, None
        self.synced.set()

    def _went_down(self, error: CitadelError) -> None:
        """Told once for each server and kind of trouble, not for each try."""
        self.is_up, self.trouble = False, error
        server = self._servers[0][0]
        if self._troubles.get(server) is not error.reason and not self.is_left:
            _log.warning(
                f"no connection to the {self._peer}, trying again; what is held is served on",
                server=str(server),
                reason=error.reason,
                error=str(error),
            )
        self._troubles[server] = error.reason


def _is_refusal(error: BaseException | None) -> bool:
    return isinstance(error, Unauthenticated | PermissionDenied)


class MovingLine(Generic[_Api]):
    """One line at a time, which is moved when what its channels were made of changes."""

    def __init__(self, *, new_line: Callable[[], Line[_Api]]) -> None:
        self._new_line = new_line
        self._current = self._newest = new_line()
        self._move = asyncio.Event()
        self.is_moving = False  # a new line is not up yet

    @property
    def current(self) -> Line[_Api]:
        """The line that is in use. Ask anew for each call."""
        return self._current

    @property
    def newest(self) -> Line[_Api]:
        """The one that is to be in use: another one while it is moving."""
        return self._newest

    def move(self) -> None:
        """Go over to a new line; the old one stays until the new one is up."""
        self._move.set()

    async def run(self) -> None:
        """Keep going until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(self._current.run())
            while True:
                await self._move.wait()
                self._move.clear()
                fresh = self._newest = self._new_line()
                self._current.is_left, self.is_moving = True, True
                starting = tasks.create_task(fresh.run())
                await first_of(fresh.synced.wait(), self._move.wait())
                if fresh.synced.is_set():
                    self._current, running, starting = fresh, starting, running
                    self.is_moving = False
                self._current.is_left = False
                starting.cancel()  # the old line, or the new one where another move overtakes it
