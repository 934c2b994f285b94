"""Whether what the work in a cluster rests on can be followed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Protocol

from citadel.clock import Clock
from citadel.errors import CitadelError, Reason, Unavailable
from citadel.kubernetes.observed import Calls, Kind, Trouble
from citadel.kubernetes.ports import OF_ALL

_FOLLOWING: Final = frozenset({"list", "watch"})
_FIRST_LIST: Final = timedelta(minutes=1)  # after which one that is not there is trouble


class Followed(Protocol):
    """What informers know, and whether they do."""

    @property
    def has_synced(self) -> bool:
        """Whether all of it was read once."""
        ...

    @property
    def trouble(self) -> CitadelError | None:
        """Why it cannot be followed just now."""
        ...


@dataclass(frozen=True, slots=True)
class Basis:
    """What some work rests on, in words, and the resource that is followed for it."""

    what: str
    resource: str
    followed: Followed


@dataclass(slots=True, kw_only=True)
class Following:
    """Watches over what is followed since some time; `lacking` is what stands still without it, in words.

    Calls that are answered do not show that it goes well: an answer can be one that nothing can be made of, and one
    list can hang while other calls do not.
    """

    basis: Basis
    lacking: str
    since: datetime
    clock: Clock
    _noticed: datetime | None = field(default=None, init=False)

    @property
    def trouble(self) -> Trouble | None:
        """What is wrong with it, since it was first looked for in vain."""
        if (error := self.basis.followed.trouble) is not None:
            self._noticed = self._noticed or self.clock.now()
            return self._told(error.reason, f"cannot be followed: {error.message}", self._noticed)
        self._noticed = None
        if self.basis.followed.has_synced or self.clock.now() - self.since <= _FIRST_LIST:
            return None
        return self._told(Reason.KUBERNETES_UNAVAILABLE, "could not be read yet", self.since)

    def _told(self, reason: Reason, words: str, since: datetime) -> Trouble:
        if self.lacking:
            known = (
                "what was told before counts, what is new may be missed"
                if self.basis.followed.has_synced
                else "until then"
            )
            words = f"{words}; {known}: {self.lacking}"
        return Trouble(Unavailable(reason, f"{self.basis.what} {words}"), since)

    def with_denied(self, trouble: Trouble, denied: Mapping[Kind, Trouble]) -> Trouble:
        """The trouble since such a call was first not allowed, which calls know better than who looks now and then."""
        if trouble.error.reason is not Reason.KUBERNETES_DENIED:
            return trouble
        since = (each.since for kind, each in denied.items() if self.rests_on(kind))
        return Trouble(trouble.error, min([trouble.since, *since]))

    def rests_on(self, kind: Kind) -> bool:
        """Whether it is followed by calls of this kind."""
        return kind.resource == self.basis.resource and kind.verb in _FOLLOWING


def troubles_of(calls: Calls, following: Sequence[Following], *, lacking: Callable[[Kind], str]) -> list[Trouble]:
    """All that is wrong, each once: with every call, with what is followed, and with calls that are not allowed.

    `lacking` says what stands still without calls of a kind.
    """
    found = [(each, trouble) for each in following if (trouble := each.trouble) is not None]
    if calls.away is not None:  # which says it of them all
        found = [(each, trouble) for each, trouble in found if trouble.error.reason not in OF_ALL]
    refused = [each for each, trouble in found if trouble.error.reason is Reason.KUBERNETES_DENIED]
    others = {kind: each for kind, each in calls.denied.items() if not any(known.rests_on(kind) for known in refused)}
    return [
        *([calls.away] if calls.away is not None else []),
        *(each.with_denied(trouble, calls.denied) for each, trouble in found),
        *sorted((_without(each, lacking(kind)) for kind, each in others.items()), key=lambda each: each.since),
    ]


def _without(trouble: Trouble, lacking: str) -> Trouble:
    if not lacking:
        return trouble
    error = trouble.error
    return Trouble(Unavailable(error.reason, f"{error.message}; until then: {lacking}"), trouble.since)
