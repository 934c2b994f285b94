"""Measures what the server answers when the agent has it sign something."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TypeVar

from prometheus_client import Counter, Histogram

from citadel.clock import Clock
from citadel.errors import CitadelError

_Signed = TypeVar("_Signed")


class AnswerMeter:
    """Counts answers, by reason code where they refuse, and times how long a batch takes."""

    def __init__(self, *, signed: Counter, refused: Counter, seconds: Histogram, clock: Clock) -> None:
        """`refused` has the one label `reason`."""
        self._signed = signed
        self._refused = refused
        self._seconds = seconds
        self._clock = clock

    async def measured(
        self, batch: Awaitable[Sequence[_Signed | CitadelError]], *, size: int
    ) -> Sequence[_Signed | CitadelError]:
        """The answers to a batch of `size` requests. Raises what `batch` does, which counts as a refusal of each."""
        begun = self._clock.monotonic()
        try:
            answers = await batch
        except CitadelError as error:
            self._refused.labels(error.reason.value).inc(size)
            raise
        finally:
            self._seconds.observe(self._clock.monotonic() - begun)
        for answer in answers:
            if isinstance(answer, CitadelError):
                self._refused.labels(answer.reason.value).inc()
            else:
                self._signed.inc()
        return answers
