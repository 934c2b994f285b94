"""Callers and what is known of them. Attested once for each connection, not for each of its streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final, Protocol
from weakref import WeakKeyDictionary

from citadel.clock import Clock
from citadel.peer import Caller, Party
from citadel.selector import Selector
from sds.serve.matching import is_of_pods

LOOK_AGAIN: Final = 10.0  # seconds until something that could not be seen may be there
_MOST_SHARED: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """What an attestor saw of a caller. `executable` is for people to read, empty when unknown.

    Without `is_complete` there was something that it could not see now and may see later, such as the name of a user
    while the service that knows it starts. `unseen` are the kinds of selectors (`unix:path`) of which nothing is known,
    now or for ever: that the caller has no such selector here does not mean that it is another one. `trouble` says why,
    and `place` where the caller runs, in words for people. With `is_in_pod` it runs in a pod, known or not.
    `basis` is what it was made of beside the process itself, which can change while the process does not.
    """

    selectors: frozenset[Selector]
    executable: str = ""
    is_complete: bool = True
    unseen: frozenset[str] = frozenset()
    trouble: str = ""
    place: str = ""
    is_in_pod: bool = False
    basis: Hashable = None

    @property
    def for_entries(self) -> frozenset[Selector]:
        """The selectors that entries are matched with: none of a caller in a pod of which nothing is known.

        What is seen of its process alone would make it look like one in no pod.
        """
        return frozenset() if self.is_in_pod and not any(map(is_of_pods, self.selectors)) else self.selectors


class WorkloadAttestor(Protocol):
    """Turns a caller into selectors, from facts that the caller cannot make up."""

    async def attest(self, caller: Caller, *, want_sha256: bool) -> Attestation:
        """What is true of `caller` now; its executable's digest only if it is wanted, since it costs.

        Raises:
            PermissionDenied: `caller_unknown` when the process ended meanwhile.
        """
        ...


class PartyOf(Protocol):
    """Whom limits count a caller with. Asked before it is let in, so quick, and off the event loop."""

    async def __call__(self, caller: Caller, /) -> Party:
        """The party. Raises nothing: who cannot be told is counted too."""
        ...


class CallerNews(Protocol):
    """What becomes of facts that attestations were made of beside the processes themselves."""

    def still_holds(self, seen: Attestation) -> bool:
        """Whether another look at the same process would give the same, as far as those facts go."""
        ...

    def wake_at_change(self, event: asyncio.Event, seen: Attestation | None) -> None:
        """Set `event` whenever what `seen` was made of may have changed; None takes an earlier wish back."""
        ...


class NoNews:
    """Fulfils `CallerNews` where a process alone says all that there is to say."""

    def still_holds(self, seen: Attestation) -> bool:  # noqa: ARG002 - the port's form
        return True

    def wake_at_change(self, event: asyncio.Event, seen: Attestation | None) -> None:
        pass


class CallerSource(Protocol):
    """Where a handler learns who is calling; `citadel.relay.Relay` is one."""

    def caller_of(self, context_peer: str) -> Caller:
        """The process behind `context.peer()`. Raises `PermissionDenied` (`caller_unknown`)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """An attestation, whether the digest was looked at too, and when (seconds of the clock that never jumps)."""

    seen: Attestation
    with_sha256: bool
    at: float


class Callers:
    """Remembers attestations: each while it holds and its connection lives, an incomplete one for a while."""

    def __init__(
        self, *, source: CallerSource, attestor: WorkloadAttestor, clock: Clock, news: CallerNews | None = None
    ) -> None:
        self._source = source
        self._attestor = attestor
        self._news = news or NoNews()
        self._clock = clock
        self._looks: WeakKeyDictionary[Caller, _Look] = WeakKeyDictionary()
        self._same: dict[Attestation, Attestation] = {}

    def caller_of(self, context_peer: str) -> Caller:
        """The process behind a handler's `context.peer()`. Raises `PermissionDenied` (`caller_unknown`)."""
        return self._source.caller_of(context_peer)

    async def attest(self, caller: Caller, *, wants_sha256: Callable[[frozenset[Selector]], bool]) -> Attestation:
        """The caller's attestation, with the digest once what else is known of the caller makes it wanted.

        Asks the attestor again for the digest, when what it was made of has changed, and every `LOOK_AGAIN` seconds
        while something is missing.
        """
        look = self._looks.get(caller)
        if look is None or self._is_worth_another(look):
            look = await self._look(caller, with_sha256=look is not None and look.with_sha256)
        if not look.with_sha256 and wants_sha256(look.seen.selectors):
            look = await self._look(caller, with_sha256=True)
        return look.seen

    def wake_at_change(self, event: asyncio.Event, seen: Attestation | None) -> None:
        """Set `event` whenever `attest` may answer otherwise than `seen`; None takes an earlier wish back."""
        self._news.wake_at_change(event, seen)

    async def _look(self, caller: Caller, *, with_sha256: bool) -> _Look:
        seen = await self._attestor.attest(caller, want_sha256=with_sha256)
        known = self._looks.get(caller)
        # What cannot be seen now takes nothing away, unless it was made of something that is so no longer.
        is_as_before = known is not None and known.seen.basis == seen.basis
        if known is not None and is_as_before and not seen.is_complete and known.seen.selectors > seen.selectors:
            seen = known.seen
        seen = self._one_of_its_kind(seen)
        look = self._looks[caller] = _Look(seen=seen, with_sha256=with_sha256, at=self._clock.monotonic())
        return look

    def _one_of_its_kind(self, seen: Attestation) -> Attestation:
        """An equal attestation that is in use already: a thousand connections of one program share one."""
        if len(self._same) >= _MOST_SHARED:
            self._same.clear()
        return self._same.setdefault(seen, seen)

    def _is_worth_another(self, look: _Look) -> bool:
        if not self._news.still_holds(look.seen):
            return True
        return not look.seen.is_complete and self._clock.monotonic() - look.at >= LOOK_AGAIN
