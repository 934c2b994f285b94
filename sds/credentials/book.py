"""Which credentials the gateways of this node want, and the last good one of each. All of it is in memory alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Final, TypeAlias

from citadel.clock import Clock
from citadel.entry import Entry
from citadel.errors import CitadelError, PermissionDenied, Reason, ResourceExhausted
from citadel.kubernetes.credential_names import CredentialName
from citadel.places import Asker, Places, Worth
from citadel.rpc import OnRefusal
from citadel.waiting import news_or_time
from sds.holdings import HoldingsFeed
from sds.serve.credentials import Known
from sds.serve.resource import Resource
from sds.waking import Waking

MOST_OF_ONE: Final = 256  # names of one gateway
MOST: Final = 1024  # of all gateways of the node
_SHARE: Final = MOST // 8  # of one namespace, which nobody takes from it
# A gateway that is started anew is served at once, also while the server is away.
KEPT: Final = 600.0  # seconds after the last who asked
_LOOK_EVERY: Final = 30.0
_PENDING: Final = Known(is_pending=True)

Key: TypeAlias = tuple[str, str]  # an entry's id, and the name as it was asked for


@dataclass(slots=True)
class _Wanted:
    """One credential. `unheld_since` is by the clock that never jumps, None while somebody holds it."""

    number: int
    known: Known = _PENDING
    holders: set[asyncio.Event] = field(default_factory=set)
    unheld_since: float | None = None

    @property
    def is_forgettable(self) -> bool:
        return not self.holders and self.known.resource is None

    @property
    def worth(self) -> Worth:
        if self.known.is_pending and self.holders:
            return Worth.UNKNOWN
        return Worth.USED if self.known.resource is not None and self.holders else Worth.NOTHING


class CredentialBook:
    """Fulfils `sds.serve.credentials.Credentials`. Lives on one event loop.

    What is good stays until there is something newer, or the server says that the gateway may not have it. With its
    entry all that a gateway had is forgotten. Where more is wanted than there is room for, what is of no use to anybody
    gives way; whoever is turned away asks again and again.
    """

    def __init__(self, *, feed: HoldingsFeed, clock: Clock, on_refusal: OnRefusal) -> None:
        self._feed = feed
        self._clock = clock
        self._on_refusal = on_refusal
        self._wanted: dict[Key, _Wanted] = {}
        self._numbers = count()
        self._places: Places[Key] = Places(share=_SHARE)
        self._held: dict[asyncio.Event, set[Key]] = {}
        self._refused: dict[asyncio.Event, set[tuple[str, Reason]]] = {}
        self._turned_away = Waking()
        self._called_back = clock.monotonic()
        self._trouble = ""  # why the server cannot be asked
        self.news = asyncio.Event()  # other credentials are wanted than before

    @property
    def wanted(self) -> Sequence[Key]:
        """All that the server is asked for."""
        return tuple(self._wanted)

    @property
    def numbered(self) -> Mapping[Key, int]:
        """The same, the older first; what was forgotten and is wanted again has another number."""
        return {key: wanted.number for key, wanted in self._wanted.items()}

    def ask(
        self, holder: asyncio.Event, entry: Entry | None, names: Sequence[str], *, is_known: bool
    ) -> Mapping[str, Known]:
        """See `sds.serve.credentials.Credentials`."""
        found: dict[str, Known] = {}
        keys: set[Key] = set()
        refused: set[tuple[str, Reason]] = set()
        is_full = False  # where there is no room for one name there is none for the next
        for name in names:
            try:
                if entry is None and not is_known:
                    found[name] = _PENDING
                    continue
                key = self._want(entry, name, holder, is_full=is_full)
                keys.add(key)
                known = self._wanted[key].known
                found[name] = replace(known, why=self._trouble) if known.is_pending else known
            except CitadelError as error:
                refused.add((name, error.reason))
                is_full |= error.reason is Reason.TOO_MANY_REQUESTS
                if (name, error.reason) not in self._refused.get(holder, ()):
                    self._on_refusal("credentials", error)
                found[name] = Known(why=f"{error.message} ({error.reason.value})", is_ruled_out=True)
        self._settle(holder, keys)
        if refused or holder in self._refused:
            self._refused[holder] = refused
        return found

    def leave(self, holder: asyncio.Event) -> None:
        """See `sds.serve.credentials.Credentials`."""
        self._settle(holder, set())
        self._refused.pop(holder, None)

    def put(self, key: Key, resource: Resource, *, behind: str) -> None:
        """A good one; `behind` says why what was written since cannot take its place, where something was."""
        self._learn(key, Known(resource, why=behind))

    def refuse(self, key: Key, why: str) -> None:
        """There is nothing good, or nobody can say; what was good before stays."""
        if (wanted := self._wanted.get(key)) is not None:
            self._learn(key, Known(wanted.known.resource, why=why))

    def withdraw(self, key: Key, why: str) -> None:
        """The gateway may not have it any more."""
        self._learn(key, Known(why=why, is_ruled_out=True))

    def cannot_ask(self, why: str) -> None:
        """The server cannot be asked, which is said of what was not heard of yet; empty when it can."""
        if why != self._trouble:
            self._trouble = why
            self._wake(wanted for wanted in self._wanted.values() if wanted.known.is_pending)

    async def run(self) -> None:
        """Forget what nobody has asked for in a while, and what belonged to entries that are gone."""
        changed = asyncio.Event()
        self._feed.watch(changed)
        try:
            while True:
                changed.clear()
                self._forget()
                self._call_back()
                await news_or_time(changed, _LOOK_EVERY, clock=self._clock)
        finally:
            self._feed.unwatch(changed)

    def _want(self, entry: Entry | None, name: str, holder: asyncio.Event, *, is_full: bool) -> Key:
        CredentialName.parse(name)
        if entry is None:
            raise PermissionDenied(
                Reason.CREDENTIAL_NOT_ALLOWED,
                f"{name} is asked for by a caller that is no pod",
                fix="credentials are for pods that have their identity by the template of their cluster",
            )
        key = (entry.id, name)
        asker = _asker_of(entry)
        if key not in self._wanted:
            self._make_room(asker, is_full=is_full)
            self._wanted[key] = _Wanted(next(self._numbers))
            self.news.set()
        wanted = self._wanted[key]
        wanted.holders.add(holder)
        wanted.unheld_since = None
        self._places.put(key, asker, wanted.worth)
        return key

    def _make_room(self, asker: Asker, *, is_full: bool) -> None:
        """Raises `ResourceExhausted` where one more is too many. Once it `is_full` nobody is looked for to give way."""
        own = self._places.of(asker)
        if len(own) >= MOST_OF_ONE:
            most, whose = MOST_OF_ONE, "this gateway"
            leaving = None if is_full else next((key for key in own if not self._wanted[key].holders), None)
        elif len(self._wanted) >= MOST:
            most, whose = MOST, "this node"
            leaving = None if is_full else self._of_least_use(asker)
        else:
            return
        if leaving is None:
            raise ResourceExhausted(
                Reason.TOO_MANY_REQUESTS,
                f"{most} credentials of {whose} are wanted already",
                fix="ask for fewer",
            )
        self._drop(leaving)

    def _of_least_use(self, asker: Asker) -> Key | None:
        forgettable = next((key for key, wanted in self._wanted.items() if wanted.is_forgettable), None)
        return forgettable or self._places.giving_way(asker)

    def _drop(self, key: Key) -> None:
        self._places.drop(key)
        self._wake((self._wanted.pop(key),))
        self.news.set()

    def _settle(self, holder: asyncio.Event, keys: set[Key]) -> None:
        for key in self._held.pop(holder, set()) - keys:
            wanted = self._wanted.get(key)
            if wanted is not None:
                wanted.holders.discard(holder)
                if not wanted.holders:
                    wanted.unheld_since = self._clock.monotonic()
                    self._places.mark(key, wanted.worth)
        if keys:
            self._held[holder] = keys

    def _learn(self, key: Key, known: Known) -> None:
        wanted = self._wanted.get(key)
        if wanted is not None and wanted.known != known:
            wanted.known = known
            self._places.mark(key, wanted.worth)
            self._wake((wanted,))

    def _wake(self, changed: Iterable[_Wanted]) -> None:
        for wanted in changed:
            for holder in wanted.holders:
                holder.set()

    def _forget(self) -> None:
        entries, is_told = self._feed.current.entries, self._feed.current.is_told
        long_ago = self._clock.monotonic() - KEPT
        for (entry_id, name), wanted in list(self._wanted.items()):
            is_old = wanted.unheld_since is not None and wanted.unheld_since <= long_ago
            if is_old or (is_told and entry_id not in entries):
                self._drop((entry_id, name))

    def _call_back(self) -> None:
        """Let those who were turned away ask again, but not at every change: that wakes them already."""
        if self._clock.monotonic() < self._called_back + _LOOK_EVERY:
            return
        self._called_back = self._clock.monotonic()
        self._turned_away.wake(
            [
                holder
                for holder, refused in self._refused.items()
                if any(reason is Reason.TOO_MANY_REQUESTS for _, reason in refused)
            ]
        )


def _asker_of(entry: Entry) -> Asker:
    """A pod of its namespace, of which anybody there can make more."""
    return Asker(entry.origin.rpartition("/")[0], entry.id)
