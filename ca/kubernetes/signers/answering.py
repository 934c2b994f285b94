"""Requests that wait as objects in Kubernetes: each is answered once, in whatever order they can be."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

from ca.kubernetes.away import is_away
from ca.kubernetes.backlog import Backlog
from ca.kubernetes.following import Followed
from ca.kubernetes.note import Note
from ca.kubernetes.signers.pods_seen import AskedPods
from citadel.clock import Clock
from citadel.errors import CitadelError, NotFound, ResourceExhausted, Unavailable
from citadel.kubernetes.informer import Informer

_AT_ONCE: Final = 8
LATER: Final = (Unavailable, ResourceExhausted)  # what waiting mends
_PODS_ARE_TOLD: Final = 10.0  # seconds after which a pod that is not known is asked for


class Outcome(StrEnum):
    """What became of a request."""

    ISSUED = "issued"
    DENIED = "denied"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Standing:
    """How many were answered since the start, and how; and which could not be yet, and why."""

    outcomes: Mapping[Outcome, int]
    failing: Mapping[str, CitadelError]

    def notes(self, kind: str) -> Iterator[Note]:
        """What a person should know."""
        if self.failing:
            name, error = next(iter(self.failing.items()))
            words = f"{len(self.failing)} {kind}s cannot be answered yet, such as {name}"
            yield Note(f"{words} ({error.reason.value}: {error.message})", is_trouble=True)


class FollowedPods(AskedPods, Protocol):
    """The pods of a cluster."""

    async def until_synced(self) -> None:
        """Wait until all are known."""
        ...


class Request(Protocol):
    """A request."""

    @property
    def uid(self) -> str:
        """The UID of its object."""
        ...


_Request = TypeVar("_Request", bound=Request)
# Answers a request, or gives None where it is not to be answered yet; the flag says whether its pod may be told of yet.
Answer: TypeAlias = Callable[[_Request, bool], Coroutine[Any, Any, Outcome | None]]


class Answering(Generic[_Request]):
    """Follows requests of one kind, and has `answer` answer them; `forget` is told which have their answer."""

    def __init__(
        self,
        informer: Informer[_Request],
        answer: Answer[_Request],
        forget: Callable[[str], None],
        *,
        pods: FollowedPods,
        clock: Clock,
    ) -> None:
        self._informer = informer
        self._answer = answer
        self._forget = forget
        self._pods = pods
        self._clock = clock
        self._arrived: dict[str, float] = {}
        self._answered: set[str] = set()  # until the informer has seen it
        self._outcomes: Counter[Outcome] = Counter()
        self._backlog = Backlog(self._work, is_away=lambda: is_away(informer, pods), clock=clock, at_once=_AT_ONCE)
        informer.follow(self._changed)

    @property
    def standing(self) -> Standing:
        """How it is."""
        return Standing(self._outcomes, self._backlog.failing)

    @property
    def requests(self) -> Followed:
        """Those that there are."""
        return self._informer

    async def run(self) -> None:
        """Answer, for ever: once the pods are known, since what is not known cannot be told from what is gone."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._informer.run())
            await self._pods.until_synced()
            both.create_task(self._backlog.run())

    def _changed(self, key: str, before: _Request | None, after: _Request | None) -> None:
        if before is not None and (after is None or after.uid != before.uid):
            self._arrived.pop(before.uid, None)
            self._answered.discard(before.uid)
            self._forget(before.uid)
        if after is None:
            self._backlog.forget(key)
        else:
            self._arrived.setdefault(after.uid, self._clock.monotonic())
            self._backlog.add(key)

    async def _work(self, key: str) -> None:
        request = self._informer.current.get(key)
        if request is None or request.uid in self._answered:
            return
        waits = self._clock.monotonic() - self._arrived[request.uid] < _PODS_ARE_TOLD
        try:
            outcome = await self._answer(request, waits)
        except NotFound:
            return  # it was deleted, and nobody waits for an answer
        if outcome is None:
            return
        self._outcomes[outcome] += 1
        if request.uid in self._arrived:  # otherwise its answer was seen already
            self._answered.add(request.uid)
