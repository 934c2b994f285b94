"""Things that are followed for as long as somebody wants them: each once, however many do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Final, Generic, Protocol, TypeVar

import structlog

from citadel.clock import Clock
from citadel.errors import Reason, ResourceExhausted
from citadel.places import Asker, Places, Worth

_log = structlog.get_logger(__name__)

_LOOK_EVERY: Final = 5.0  # seconds
_KEPT: Final = 30.0  # seconds after the last who wanted it has gone: whoever comes back at once costs no call


class Followable(Protocol):
    """Something that changes."""

    @property
    def is_of_use(self) -> bool | None:
        """Whether who wants it gets anything by it; None while that is not known."""
        ...

    async def run(self, changed: Callable[[], None]) -> None:
        """Follow it for ever, and say `changed` after each change."""
        ...


_Key = TypeVar("_Key", bound=Hashable)
_Thing = TypeVar("_Thing", bound=Followable)


class Followed(Generic[_Key, _Thing]):
    """Begins to follow what is wanted, tells the holders of each change, and gives up what nobody holds.

    A holder is the event that wakes it. It says again and again what it wants, and by `settle` that this was all.
    Where more is wanted than may be followed, what is of no use to anybody gives way.
    """

    def __init__(
        self,
        make: Callable[[_Key], _Thing],
        *,
        asker: Callable[[_Key], Asker],
        most: int,
        share: int,
        what: str,
        clock: Clock,
    ) -> None:
        """`most` are followed at a time, of which a group of askers has `share` at need; `what` names them."""
        self._make = make
        self._asker = asker
        self._most = most
        self._what = what
        self._clock = clock
        self._things: dict[_Key, _Thing] = {}
        self._places: Places[_Key] = Places(share=share)
        self._tasks: dict[_Key, asyncio.Task[None]] = {}
        self._holders: dict[_Key, set[asyncio.Event]] = {}
        self._held: dict[asyncio.Event, set[_Key]] = {}
        self._wanted: dict[asyncio.Event, set[_Key]] = {}
        self._unheld_since: dict[_Key, float] = {}

    def held(self) -> Iterator[_Thing]:
        """What somebody wants now."""
        return (thing for key, thing in self._things.items() if self._holders[key])

    def get(self, key: _Key, holder: asyncio.Event) -> _Thing:
        """It, followed from now on at the latest. Raises `ResourceExhausted` where too many are."""
        thing = self._things.get(key)
        if thing is None:
            thing = self._begin(key)
        self._holders[key].add(holder)
        self._unheld_since.pop(key, None)
        self._held.setdefault(holder, set()).add(key)
        self._wanted.setdefault(holder, set()).add(key)
        return thing

    def get_any(self, keys: Sequence[_Key], holder: asyncio.Event) -> Sequence[_Thing]:
        """All of them, where one of use is enough: the others are worth as much, since nobody has it without them.

        The last is begun first: it is the one that most have, and one of no use keeps others out where all is taken.
        """
        found = [self.get(key, holder) for key in reversed(keys)][::-1]
        worth = max(map(_worth_of, found))
        for key in keys:
            self._places.mark(key, worth)
        return found

    def settle(self, holder: asyncio.Event) -> None:
        """The holder wants what it got since it last settled, and nothing else."""
        wanted = self._wanted.pop(holder, set())
        held = self._held.pop(holder, set())
        if wanted:
            self._held[holder] = wanted
        for key in held - wanted:
            self._holders[key].discard(holder)
            if not self._holders[key]:
                self._unheld_since[key] = self._clock.monotonic()

    async def run(self) -> None:
        """Give up what nobody has wanted for a while, until cancelled; then all of it."""
        try:
            while True:
                await self._clock.sleep(_LOOK_EVERY)
                self._give_up_what_ended()
                long_ago = self._clock.monotonic() - _KEPT
                for key in [key for key, since in self._unheld_since.items() if since <= long_ago]:
                    self._end(key)
        finally:
            for key in list(self._things):
                self._end(key)

    def _give_up_what_ended(self) -> None:
        """Each is to go on for ever. Whatever ended one ends no other, and whoever wants it begins it anew."""
        for key, task in [each for each in self._tasks.items() if each[1].done()]:
            error = None if task.cancelled() else repr(task.exception())
            _log.error("something is followed no longer", what=f"{self._what}: {key}", error=error)
            self._wake(key)
            self._end(key)

    def _begin(self, key: _Key) -> _Thing:
        asker = self._asker(key)
        if len(self._things) >= self._most and not self._has_made_room(asker):
            raise ResourceExhausted(
                Reason.TOO_MANY_REQUESTS, f"{self._most} {self._what} are followed already", fix="want fewer"
            )
        thing = self._things[key] = self._make(key)
        self._places.put(key, asker)
        self._holders[key] = set()
        self._tasks[key] = asyncio.create_task(thing.run(lambda: self._changed(key)))
        return thing

    def _has_made_room(self, asker: Asker) -> bool:
        """Whether there was one that has made way: first of those that nobody holds, the longest so."""
        leaving = next(iter(self._unheld_since), None) or self._places.giving_way(asker)
        if leaving is not None:
            self._end(leaving)
        return leaving is not None

    def _changed(self, key: _Key) -> None:
        self._places.mark(key, _worth_of(self._things[key]))
        self._wake(key)

    def _wake(self, key: _Key) -> None:
        for holder in self._holders.get(key, ()):
            holder.set()

    def _end(self, key: _Key) -> None:
        self._tasks.pop(key).cancel()
        del self._things[key]
        self._places.drop(key)
        self._unheld_since.pop(key, None)
        for holder in self._holders.pop(key):
            for known in (self._held, self._wanted):
                known.get(holder, set()).discard(key)


def _worth_of(thing: Followable) -> Worth:
    if thing.is_of_use is None:
        return Worth.UNKNOWN
    return Worth.USED if thing.is_of_use else Worth.NOTHING
