"""Following what a workload may have, for as long as there is anything to hope for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final, Protocol

from tenacity import AsyncRetrying, retry_if_exception, wait_random_exponential

from citadel.clock import Clock
from citadel.errors import CitadelError, FailedPrecondition, InvalidArgument, Reason, Unavailable
from citadel.x509_context import X509Context

FIRST_WAIT: Final = 0.2  # seconds
LONGEST_WAIT: Final = 10.0  # seconds
# A stream that ends sooner counts as a failed try: what ended it may end the next one just as soon.
_STEADY: Final = 5.0  # seconds


class X509Source(Protocol):
    """`cli.workload.client.WorkloadClient` is one."""

    def watch_x509_context(self) -> AsyncGenerator[X509Context | CitadelError, None]:
        """What the workload may have, now and after every change. Raises a `CitadelError` when it cannot be known."""
        ...


class Watching:
    """Calls `on_change` with every new context, and `on_trouble` with each new kind of trouble.

    The same content again, as after a reconnect, is no change. What is lost is told as trouble and takes nothing away:
    whoever uses the files decides what to do without an identity. Where `on_change` fails with a `CitadelError`, the
    whole is tried again.
    """

    def __init__(
        self,
        *,
        source: X509Source,
        on_change: Callable[[X509Context], Awaitable[None]],
        on_trouble: Callable[[CitadelError], None],
        clock: Clock,
    ) -> None:
        self._source = source
        self._on_change = on_change
        self._on_trouble = on_trouble
        self._clock = clock
        self._last: X509Context | None = None
        self._trouble: Reason | None = None

    async def run(self) -> None:
        """Keep going until cancelled. Raises what trying again would not mend (WEP-08, WEP-21)."""
        while True:
            await self._until_it_was_steady()

    async def _until_it_was_steady(self) -> None:
        attempts = AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            wait=wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT),  # WEP-18, WEP-20
            sleep=self._clock.sleep,
            reraise=True,
        )
        async for attempt in attempts:
            with attempt:
                await self._one_stream()

    async def _one_stream(self) -> None:
        """Follow one stream to its end. Returns, for another at once (WAPI-06), where it was a steady one."""
        began = self._clock.monotonic()
        end: CitadelError = Unavailable(Reason.NOT_READY, "the agent ended the stream")
        try:
            async with aclosing(self._source.watch_x509_context()) as contexts:
                async for context in contexts:
                    await self._take(context)
        except CitadelError as error:
            self._tell(error)
            end = error
        if not _may_pass(end) or self._clock.monotonic() - began < _STEADY:
            raise end

    async def _take(self, context: X509Context | CitadelError) -> None:
        if isinstance(context, CitadelError):
            self._tell(context)  # and what was before holds (WAPI-14)
            return
        if context != self._last:
            await self._on_change(context)
            self._last = context
        self._trouble = None

    def _tell(self, error: CitadelError) -> None:
        """Told once for each kind of trouble, not for each try."""
        if self._trouble is not error.reason:
            self._on_trouble(error)
        self._trouble = error.reason


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, CitadelError) and not isinstance(error, InvalidArgument | FailedPrecondition)
