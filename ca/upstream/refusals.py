"""Not asking again soon for what was refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from citadel.clock import Clock
from citadel.errors import CitadelError, Reason


class Refusals:
    """What was answered last, where that was no, and when it may be asked again."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._again_at = 0.0  # by the clock that never jumps
        self.last: CitadelError | None = None
        self.since: datetime | None = None

    @property
    def are_over(self) -> bool:
        """Whether it may be asked now."""
        return self.last is None or self._clock.monotonic() >= self._again_at

    def check(self) -> None:
        """Raise what was answered last, where it is too soon to ask again."""
        if self.last is not None and not self.are_over:
            raise self.last

    def note(self, error: CitadelError, *, again_in: float) -> None:
        """This was answered; ask again in so many seconds."""
        self.last, self._again_at = error, self._clock.monotonic() + again_in
        self.since = self.since or self._clock.now()

    @contextmanager
    def asking(self, *, soon: float, later: float) -> Iterator[None]:
        """Ask within this, if it is not too soon: again `soon` where nobody answered, and `later` after a no."""
        self.check()
        try:
            yield
        except CitadelError as error:
            self.note(error, again_in=soon if error.reason is Reason.VAULT_UNAVAILABLE else later)
            raise
        self.end()

    def end(self) -> None:
        """It was granted."""
        self.last = self.since = None

    def waiting_is_over(self) -> None:
        """Who did not answer does so again: a refusal stands until it is granted."""
        if self.last is not None and self.last.reason is Reason.VAULT_UNAVAILABLE:
            self.end()
