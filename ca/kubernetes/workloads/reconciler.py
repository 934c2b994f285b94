"""Bringing entries in line with the pods of a cluster: what was touched is looked at again, whatever happened to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from random import SystemRandom
from typing import Final, Protocol

import structlog

from ca.audit.model import Actor
from ca.entries.changes import EntryChange
from ca.entries.directory import EntryDirectory
from ca.kubernetes.pods import Pod
from ca.kubernetes.workloads.condition import WorkloadCondition
from ca.kubernetes.workloads.rules import PodRules, Verdict, origin_prefix
from citadel.clock import Clock
from citadel.entry import Entry
from citadel.errors import CitadelError
from citadel.kubernetes.informer import Follower
from citadel.pace import Pace
from citadel.unexpected import nothing_unexpected
from citadel.waiting import news_or_time

_LINGER: Final = 0.05  # seconds in which what comes together is gathered
_AT_ONCE: Final = 500  # pods of one transaction: issuing waits for it
_BETWEEN: Final = 100  # pods after which others have a turn
_LOOK_AGAIN: Final = 300.0  # seconds: what people did to entries of their own is seen then at the latest
_LONGEST_PAUSE: Final = 30.0

_log = structlog.get_logger(__name__)


class FollowedPods(Protocol):
    """`ca.kubernetes.pods.Pods` is the real one."""

    @property
    def current(self) -> Mapping[str, Pod]:
        """Every pod, by `namespace/name`."""
        ...

    def follow(self, follower: Follower[Pod]) -> None:
        """Tell of every change from now on."""
        ...

    async def until_synced(self) -> None:
        """Wait until all pods are known."""
        ...


class FollowedServices(Protocol):
    """`ca.kubernetes.workloads.services.Services` is the real one."""

    def selecting(self, pod: Pod) -> Sequence[str]:
        """The names of those that select this pod."""
        ...

    def follow(self, in_namespace: Callable[[str], None]) -> None:
        """Tell of each namespace in which one changes."""
        ...

    async def until_synced(self) -> None:
        """Wait until all are known."""
        ...


class ManagesEntries(Protocol):
    """`ca.entries.registry.EntryRegistry` is the real one."""

    async def manage(self, wanted: Sequence[Entry], *, gone: Collection[str], by: Actor) -> Mapping[str, CitadelError]:
        """Make, change and delete in one transaction; what could not be, by origin."""
        ...


@dataclass(slots=True)
class _Step:
    """What one transaction is to do."""

    wanted: list[Entry] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)

    def add(self, wanted: Entry | None, found: Iterable[Entry]) -> None:
        """What one pod's name is to have, where these were found; of a pod that had the name before all goes."""
        is_there = False
        for each in found:
            if wanted is None or (each.parent_id, each.selectors) != (wanted.parent_id, wanted.selectors):
                self.gone.append(each.id)
                continue
            change = EntryChange(before=each, after=replace(wanted, id=each.id))
            if change.is_real:
                self.wanted.append(replace(wanted, id=each.id))
            is_there = True
        if wanted is not None and not is_there:
            self.wanted.append(wanted)


class WorkloadReconciler:
    """Keeps the entries of one cluster true. Nothing happens before its pods, and services where used, are known.

    The informers keep what they knew while the API server is away, so that nothing is deleted for its silence.
    """

    def __init__(
        self,
        *,
        cluster: str,
        rules: PodRules,
        pods: FollowedPods,
        services: FollowedServices | None,
        directory: EntryDirectory,
        registry: ManagesEntries,
        clock: Clock,
    ) -> None:
        self._cluster = cluster
        self._prefix = origin_prefix(cluster)
        self._rules = rules
        self._pods = pods
        self._services = services
        self._directory = directory
        self._registry = registry
        self._clock = clock
        self._pace = Pace(clock=clock, draw=SystemRandom().random)
        self._touched: dict[str, None] = {}
        self._namespaces: set[str] = set()
        self._news = asyncio.Event()
        self._admitted: set[str] = set()
        self._problems: dict[str, str] = {}
        pods.follow(self._pod_changed)
        if services is not None:
            services.follow(self._touch_namespace)

    def condition(self) -> WorkloadCondition:
        """How it is."""
        managed = self._directory.managed
        mine = (managed.of(origin) for origin in managed.origins() if origin.startswith(self._prefix))
        return WorkloadCondition(
            admitted=len(self._admitted), entries=sum(map(len, mine)), problems=dict(self._problems)
        )

    async def run(self) -> None:
        """Reconcile for ever."""
        await self._pods.until_synced()
        if self._services is not None:
            await self._services.until_synced()
        looked_at = -_LOOK_AGAIN
        while True:
            self._news.clear()
            if (age := self._clock.monotonic() - looked_at) >= _LOOK_AGAIN:
                self._touch_all()
                looked_at, age = self._clock.monotonic(), 0.0
            await self._settle()
            await news_or_time(self._news, _LOOK_AGAIN - age, clock=self._clock)
            await self._clock.sleep(_LINGER)

    def _pod_changed(self, key: str, before: Pod | None, after: Pod | None) -> None:
        del before, after  # what is true then is looked up
        self._touched[key] = None
        self._news.set()

    def _touch_namespace(self, namespace: str) -> None:
        self._namespaces.add(namespace)
        self._news.set()

    def _touch_all(self) -> None:
        """Every pod, and everything that an entry was made from and may be there no more."""
        origins = (each for each in self._directory.managed.origins() if each.startswith(self._prefix))
        known = (each.removeprefix(self._prefix) for each in origins)
        self._touched |= dict.fromkeys((*self._pods.current, *known))

    async def _settle(self) -> None:
        """Look at everything that was touched."""
        while self._touched or self._namespaces:
            if self._namespaces:
                namespaces, self._namespaces = self._namespaces, set()
                within = (key for key in self._pods.current if key.partition("/")[0] in namespaces)
                self._touched |= dict.fromkeys(within)
            keys = list(islice(self._touched, _AT_ONCE))
            try:
                await self._look_at(keys)
            except CitadelError as error:  # the store
                _log.warning("entries of pods wait", cluster=self._cluster, reason=error.reason, error=str(error))
                self._touched |= dict.fromkeys(keys)
                self._pace.failed(longest=_LONGEST_PAUSE)
                await self._clock.sleep(self._pace.wait)
            else:
                self._pace.worked()

    async def _look_at(self, keys: Sequence[str]) -> None:
        """Bring the entries of these pods in line, in one transaction."""
        step, now = _Step(), self._clock.now()
        for number, key in enumerate(keys, start=1):
            self._touched.pop(key, None)  # before it is looked at: who changes from here on is looked at again
            self._look(key, step, now)
            if number % _BETWEEN == 0:
                await asyncio.sleep(0)
        if not (step.wanted or step.gone):
            return
        refused = await self._registry.manage(step.wanted, gone=step.gone, by=Actor.kubernetes(self._cluster))
        for origin, error in refused.items():
            self._note(origin.removeprefix(self._prefix), error.message)

    def _look(self, key: str, step: _Step, now: datetime) -> None:
        pod = self._pods.current.get(key)
        try:
            with nothing_unexpected(key):
                verdict = Verdict() if pod is None else self._rules.judge(pod, self._selecting(pod), now)
        except CitadelError as error:  # its entries stay as they are, and those of the others are brought in line
            self._note(key, error.message)
            return
        self._note(key, verdict.problem)
        if verdict.entry is None:
            self._admitted.discard(key)
        else:
            self._admitted.add(key)
        step.add(verdict.entry, self._directory.managed.of(f"{self._prefix}{key}").values())

    def _selecting(self, pod: Pod) -> Sequence[str]:
        return self._services.selecting(pod) if self._services is not None else ()

    def _note(self, key: str, problem: str) -> None:
        if not problem:
            self._problems.pop(key, None)
        elif self._problems.get(key) != problem:
            self._problems[key] = problem
            _log.warning("a pod cannot be named as it should", cluster=self._cluster, pod=key, error=problem)
