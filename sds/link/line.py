"""One line to the server: a channel with fixed credentials, and a Sync stream on it that is opened again for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog
from grpc import aio
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random, wait_random_exponential

from citadel._wire import agent_api_pb2_grpc
from citadel.clock import Clock
from citadel.config.types import HostPort
from citadel.errors import CitadelError, PermissionDenied, Reason, Unauthenticated
from sds.link.sync import SyncStream
from sds.settings import ReconnectSettings

_GRACE: Final = 15.0  # seconds for calls in flight when a line is left
# A stream that ends sooner counts as a failed try: what ended it may end the next one just as soon.
_STEADY: Final = 5.0  # seconds

_log = structlog.get_logger(__name__)

NewStream = Callable[[Callable[[], None]], SyncStream]


class Line:
    """Reconnects with exponential backoff and full jitter; slowly where the server refuses this agent.

    `synced` is set once and for all when the first snapshot was taken on this line.
    """

    def __init__(
        self,
        *,
        address: HostPort,
        channel: aio.Channel,
        new_stream: NewStream,
        reconnect: ReconnectSettings,
        clock: Clock,
    ) -> None:
        self._address = address
        self._channel = channel
        self._new_stream = new_stream
        self._reconnect = reconnect
        self._clock = clock
        self._trouble: Reason | None = None
        self._up_since: float | None = None
        self._jittered = wait_random_exponential(
            multiplier=reconnect.initial.total_seconds(), max=reconnect.maximum.total_seconds()
        )
        self.api: agent_api_pb2_grpc.AgentApiAsyncStub = agent_api_pb2_grpc.AgentApiStub(channel)
        self.is_up = False
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """Keep the stream up until cancelled; then close the channel, when the calls in flight have ended."""
        try:
            while True:
                # Ends when a stream that was steady has ended; the next one starts with the shortest wait again.
                await self._until_it_was_steady()
        finally:
            self.is_up = False
            await self._channel.close(_GRACE)

    async def _until_it_was_steady(self) -> None:
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(CitadelError), wait=self._wait, sleep=self._clock.sleep, reraise=True
        )
        async for attempt in attempts:
            with attempt:
                await self._one_stream()
        # Also after a steady stream: without it, all agents of a restarted server would be back in one instant.
        shortest = wait_random(max=self._reconnect.initial.total_seconds())
        await self._clock.sleep(shortest(attempt.retry_state))

    async def _one_stream(self) -> None:
        self._up_since = None
        stream = self._new_stream(self._came_up)
        try:
            await stream.run(self.api)
        except CitadelError as error:
            self._went_down(error)
            if self._up_since is None or self._clock.monotonic() - self._up_since < _STEADY:
                raise

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, Unauthenticated | PermissionDenied):
            return self._reconnect.maximum.total_seconds()
        return self._jittered(state)

    def _came_up(self) -> None:
        _log.info("connected to the server", server=str(self._address))
        self._trouble = None
        self._up_since = self._clock.monotonic()
        self.is_up = True
        self.synced.set()

    def _went_down(self, error: CitadelError) -> None:
        """Told once for each kind of trouble, not for each try."""
        self.is_up = False
        if self._trouble is not error.reason:
            _log.warning(
                "no connection to the server, trying again; what is held is served on",
                server=str(self._address),
                reason=error.reason,
                error=str(error),
            )
        self._trouble = error.reason
