"""Counts since the start: what was issued, and what was refused by reason; and telling refusals without drowning.

The first of a kind is told at once, to the log and to a sink. Whatever repeats it is summed and told with its number
after 5 s, 10 s, 20 s and so on up to an hour, so that a caller in a loop cannot fill the disk, however slow the loop
(invariant 10). Nor can callers keep the refusals of others from being told, however many they are.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, replace
from typing import Final, Protocol

import structlog

from citadel.actor import Actor, ActorKind
from citadel.clock import Clock, SystemClock
from citadel.errors import CitadelError, Reason
from citadel.places import Asker, Places

_FIRST_WINDOW: Final = 5.0  # seconds
_LONGEST_WINDOW: Final = 3600.0
_QUIET: Final = 600.0  # after so long without one, the next is the first of its kind again
# Of one caller so many different refusals are told apart at a time, and of all callers together: whoever has most of
# them gives way then.
_MOST_OF_ONE: Final = 20
_MOST: Final = 2000

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One refusal, or `count` of a kind of which `message` is the last. Holds no secret, as `CitadelError` promises."""

    by: Actor | None
    what: str
    reason: Reason
    message: str
    count: int


class RefusalSink(Protocol):
    """Where refusals go besides the log."""

    def note(self, refusal: Refusal) -> None:
        """Take it, without waiting."""
        ...


_Kind = tuple[Actor | None, str, Reason, str]


@dataclass(slots=True)
class _Sum:
    forget_at: float
    tell_at: float
    window: float
    last: Refusal
    count: int = 0

    def add(self, refusal: Refusal, now: float) -> None:
        self.last, self.count, self.forget_at = refusal, self.count + 1, now + _QUIET


class Tally:
    """Counts, and tells refusals. `count_refused` needs a running loop, since sums are told in the background."""

    def __init__(self, *, clock: Clock | None = None, sink: RefusalSink | None = None) -> None:
        self.issued = 0
        self.refused: Counter[Reason] = Counter()
        self._clock = clock or SystemClock()
        self._sink = sink
        self._sums: dict[_Kind, _Sum] = {}
        self._places: Places[_Kind] = Places(share=0)
        self._untold = 0
        self._telling: asyncio.Task[None] | None = None

    def count_issued(self, number: int = 1) -> None:
        """Certificates that were answered."""
        self.issued += number

    def count_refused(self, what: str, error: CitadelError, *, by: Actor | None = None) -> None:
        """A refusal, of a call or of one item in a batch. `by` is who was refused, where that is known."""
        self.refused[error.reason] += 1
        refusal = Refusal(by=by, what=what, reason=error.reason, message=error.message, count=1)
        kind = self._kind_of(refusal)
        known = self._sums.get(kind)
        now = self._clock.monotonic()
        if known is not None:
            known.add(refusal, now)
            if known.tell_at <= now:
                self._tell_sum(known, now)
        elif self._has_room(kind):
            self._sums[kind] = _Sum(now + _QUIET, now + _FIRST_WINDOW, _FIRST_WINDOW, refusal)
            self._places.put(kind, _asker_of(kind[0]))
            self._tell(refusal)
        else:
            self._untold += 1
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell_until_quiet(), name="sums of refusals")

    async def close(self) -> None:
        """Tell what has been summed and not yet told."""
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.gather(self._telling, return_exceptions=True)
        for one in self._sums.values():
            if one.count:
                self._tell_sum(one, self._clock.monotonic())
        self._tell_untold()
        for kind in list(self._sums):
            self._forget(kind)

    def _kind_of(self, refusal: Refusal) -> _Kind:
        by = refusal.by
        if by is not None and by.kind is ActorKind.ANONYMOUS:
            # Anybody can make up addresses and values: only what is refused and why tells these apart.
            return Actor(ActorKind.ANONYMOUS), refusal.what, refusal.reason, ""
        exactly = (by, refusal.what, refusal.reason, refusal.message)
        if exactly in self._sums or len(self._places.of(_asker_of(by))) < _MOST_OF_ONE:
            return exactly
        return by, refusal.what, refusal.reason, ""

    def _has_room(self, kind: _Kind) -> bool:
        """Whether it can be told apart, also in place of another."""
        if len(self._sums) < _MOST:
            return True
        leaving = self._places.giving_way(_asker_of(kind[0]))
        if leaving is None:
            return False
        self._untold += self._sums[leaving].count
        self._forget(leaving)
        return True

    def _forget(self, kind: _Kind) -> None:
        del self._sums[kind]
        self._places.drop(kind)

    async def _tell_until_quiet(self) -> None:
        while self._sums or self._untold:
            await self._clock.sleep(_FIRST_WINDOW)
            self._tell_due()

    def _tell_due(self) -> None:
        now = self._clock.monotonic()
        self._tell_untold()
        for kind, one in list(self._sums.items()):
            if one.count and one.tell_at <= now:
                self._tell_sum(one, now)
            elif not one.count and one.forget_at <= now:
                self._forget(kind)

    def _tell_sum(self, one: _Sum, now: float) -> None:
        self._tell(replace(one.last, count=one.count))
        one.count = 0
        one.window = min(one.window * 2, _LONGEST_WINDOW)
        one.tell_at = now + one.window

    def _tell_untold(self) -> None:
        if self._untold:
            count, self._untold = self._untold, 0
            self._tell(
                Refusal(
                    by=None,
                    what="more refusals than are told apart",
                    reason=Reason.TOO_MANY_REQUESTS,
                    message="their reasons are in the counts only",
                    count=count,
                )
            )

    def _tell(self, refusal: Refusal) -> None:
        _log.warning(
            "refused",
            what=refusal.what,
            by=str(refusal.by) if refusal.by is not None else "",
            reason=refusal.reason.value,
            error=refusal.message,
            count=refusal.count,
        )
        if self._sink is not None:
            self._sink.note(refusal)


def _asker_of(by: Actor | None) -> Asker:
    """A caller among those whose names differ in the last part alone.

    So do the service accounts of a namespace, of which its owner can make any number.
    """
    return Asker(str(by).rpartition("/")[0], str(by))
