"""Calls to an API server, counted, and what is wrong with them now."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from citadel.clock import Clock
from citadel.errors import CitadelError, Reason, Unavailable
from citadel.kubernetes.ports import OF_ALL, Each, KubeObject, KubernetesApi, Listed, WatchEvent, WatchExpired, as_it_is

_GOOD: Final = "ok"


@dataclass(frozen=True, slots=True)
class Trouble:
    """What somebody should look at, and since when."""

    error: CitadelError
    since: datetime


@dataclass(frozen=True, slots=True)
class Kind:
    """Calls that go well or not together, as permissions are given: a verb and a resource such as `pods`."""

    verb: str
    resource: str


@dataclass(slots=True)
class Calls:
    """How calls ended so far, by verb, resource and outcome (`ok` or a reason), and what is wrong now.

    `away` is that no call is answered, and `denied` which ones are not allowed.
    """

    clock: Clock
    ended: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    away: Trouble | None = None
    denied: dict[Kind, Trouble] = field(default_factory=dict)

    @property
    def trouble(self) -> Trouble | None:
        """The worst of it; None where all is well."""
        return self.away or min(self.denied.values(), key=lambda each: each.since, default=None)

    @contextmanager
    def one(self, kind: Kind) -> Iterator[None]:
        """Watch over one call. What the API server says about the thing itself is an answer like others."""
        try:
            yield
        except CitadelError as error:
            self.ended[kind.verb, kind.resource, error.reason.value] += 1
            self._failed(kind, error)
            raise
        else:
            self.ended[kind.verb, kind.resource, _GOOD] += 1
            self.worked(kind)

    def worked(self, kind: Kind) -> None:
        """A call of this kind was answered."""
        self.away = None
        self.denied.pop(kind, None)

    def _failed(self, kind: Kind, error: CitadelError) -> None:
        if not isinstance(error, Unavailable) or isinstance(error, WatchExpired):
            self.worked(kind)
        elif error.reason in OF_ALL:
            self.away = Trouble(error, self.away.since if self.away is not None else self.clock.now())
        else:
            self.away = None
            if error.reason is Reason.KUBERNETES_DENIED:
                known = self.denied.get(kind)
                self.denied[kind] = Trouble(error, known.since if known is not None else self.clock.now())


class ObservedApi:
    """Fulfils `KubernetesApi` by another one, and keeps `calls`."""

    def __init__(self, api: KubernetesApi, *, clock: Clock) -> None:
        self._api = api
        self.calls = Calls(clock)

    async def get(self, path: str) -> KubeObject:
        with self.calls.one(kind_of("get", path)):
            return await self._api.get(path)

    async def list(self, path: str, *, labels: str = "", fields: str = "", each: Each = as_it_is) -> Listed:
        with self.calls.one(kind_of("list", path)):
            return await self._api.list(path, labels=labels, fields=fields, each=each)

    async def create(self, path: str, body: KubeObject) -> KubeObject:
        with self.calls.one(kind_of("create", path)):
            return await self._api.create(path, body)

    async def apply(self, path: str, body: KubeObject, *, force: bool = True) -> KubeObject:
        with self.calls.one(kind_of("patch", path)):
            return await self._api.apply(path, body, force=force)

    async def replace(self, path: str, body: KubeObject) -> KubeObject:
        with self.calls.one(kind_of("update", path)):
            return await self._api.replace(path, body)

    async def delete(self, path: str) -> None:
        with self.calls.one(kind_of("delete", path)):
            await self._api.delete(path)

    @asynccontextmanager
    async def watch(
        self, path: str, *, resource_version: str, labels: str = "", fields: str = ""
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        kind = kind_of("watch", path)
        with self.calls.one(kind):
            opened = self._api.watch(path, resource_version=resource_version, labels=labels, fields=fields)
            async with opened as events:
                self.calls.worked(kind)  # it can last for minutes
                yield events


def kind_of(verb: str, path: str) -> Kind:
    """The kind of a call, by its path; names of objects and namespaces are left out, so that there are few."""
    parts = path.split("/")[1:]
    parts = parts[3:] if parts[0] == "apis" else parts[2:]  # apis/GROUP/VERSION or api/VERSION
    if len(parts) > 2 and parts[0] == "namespaces":
        parts = parts[2:]
    return Kind(verb, "/".join([*parts[:1], *parts[2:3]]))
