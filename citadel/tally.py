"""Counts since the start: what was issued, and what was refused by reason (invariant 10)."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

import structlog

from citadel.clock import Clock, SystemClock
from citadel.errors import CitadelError, Reason

_SECONDS_PER_SUM: Final = 5.0

_log = structlog.get_logger(__name__)


class Tally:
    """Counts, and logs every refusal with its reason. Messages hold no secrets by the contract of `CitadelError`.

    Refusals of callers without an identity are summed, or they could fill the disk: one line for each reason in five
    seconds, with their number.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self.issued = 0
        self.refused: Counter[Reason] = Counter()
        self._clock = clock or SystemClock()
        self._unsaid: Counter[Reason] = Counter()
        self._last: dict[Reason, tuple[str, str]] = {}
        self._saying: asyncio.Task[None] | None = None

    def count_issued(self, number: int = 1) -> None:
        """Certificates that were answered."""
        self.issued += number

    def count_refused(self, what: str, error: CitadelError) -> None:
        """A refusal, by a call or of one item in a batch."""
        self.refused[error.reason] += 1
        _log.warning("refused", what=what, reason=error.reason.value, error=error.message)

    def count_anonymous_refused(self, what: str, error: CitadelError) -> None:
        """A refusal of a caller without an identity. Needs a running loop: the sums are said in the background."""
        self.refused[error.reason] += 1
        self._unsaid[error.reason] += 1
        self._last[error.reason] = (what, error.message)
        if self._saying is None or self._saying.done():
            self._saying = asyncio.create_task(self._say_sums_until_quiet(), name="sums of anonymous refusals")

    async def close(self) -> None:
        """Say what has been summed and not yet said."""
        if self._saying is not None:
            self._saying.cancel()
            await asyncio.gather(self._saying, return_exceptions=True)
        self._say_sums()

    async def _say_sums_until_quiet(self) -> None:
        while self._unsaid:
            self._say_sums()
            await self._clock.sleep(_SECONDS_PER_SUM)

    def _say_sums(self) -> None:
        for reason, count in self._unsaid.items():
            what, message = self._last[reason]
            _log.warning("refused without identity", reason=reason.value, count=count, last=what, last_error=message)
        self._unsaid.clear()
