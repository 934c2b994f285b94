"""Following a collection of the API server: listed once, then watched, so that reading it costs no call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from random import SystemRandom
from types import MappingProxyType
from typing import Final, Generic, Protocol, TypeVar

import structlog

from citadel.clock import Clock
from citadel.errors import CitadelError
from citadel.kubernetes.ports import ApiUnavailable, KubeObject, KubernetesApi, WatchExpired
from citadel.pace import Pace

_LONGEST_PAUSE: Final = 30.0  # seconds between tries while the API server is away

_Kept = TypeVar("_Kept")
_Kept_contra = TypeVar("_Kept_contra", contravariant=True)

_log = structlog.get_logger(__name__)


class Follower(Protocol[_Kept_contra]):
    """Told of each change after the informer has taken it, on the loop; it must not block and not raise."""

    def __call__(self, key: str, before: _Kept_contra | None, after: _Kept_contra | None) -> None:
        """`before` is None for what is new, `after` for what has gone."""
        ...


class Informer(Generic[_Kept]):
    """What is in a collection now, as far as the API server has told.

    `keep` makes of an object what is kept of it, or None for what is of no interest; it must not raise. While the API
    server is away everything stays as it was last known. It is asked again with growing pauses, each drawn, so that
    many informers do not come back in one instant.
    """

    def __init__(
        self,
        api: KubernetesApi,
        path: str,
        *,
        keep: Callable[[KubeObject], _Kept | None],
        clock: Clock,
        labels: str = "",
        fields: str = "",
        draw: Callable[[], float] | None = None,
    ) -> None:
        self._api = api
        self._path = path
        self._keep = keep
        self._labels = labels
        self._fields = fields
        self._clock = clock
        self._pace = Pace(clock=clock, draw=draw or SystemRandom().random)
        self._kept: dict[str, _Kept] = {}
        self._followers: list[Follower[_Kept]] = []
        self._synced = asyncio.Event()
        self.trouble: CitadelError | None = None

    @property
    def current(self) -> Mapping[str, _Kept]:
        """What is kept, by `namespace/name`, or by name where there is no namespace."""
        return MappingProxyType(self._kept)

    @property
    def has_synced(self) -> bool:
        """Whether the collection was listed once."""
        return self._synced.is_set()

    async def until_synced(self) -> None:
        """Wait for the first list."""
        await self._synced.wait()

    def follow(self, follower: Follower[_Kept]) -> None:
        """Tell `follower` of every change from now on."""
        self._followers.append(follower)

    async def run(self) -> None:
        """List and watch for ever."""
        version = ""
        while True:
            try:
                if not version:
                    version = await self._list()
                version = await self._watch(version)
            except WatchExpired:
                version = ""
            except CitadelError as error:
                await self._wait_after(error)
            else:
                self._has_worked()

    async def _list(self) -> str:
        listed = await self._api.list(self._path, labels=self._labels, fields=self._fields)
        found = {_key(each): each for each in listed.items}
        for key in self._kept.keys() - found.keys():
            self._take(key, None)
        for key, each in found.items():
            self._take(key, self._keep(each))
        self._has_worked()
        self._synced.set()
        return listed.resource_version

    async def _watch(self, version: str) -> str:
        """Follow until the API server ends the watch; the version to go on from."""
        opened = self._api.watch(self._path, resource_version=version, labels=self._labels, fields=self._fields)
        async with opened as events:
            self._has_worked()
            async for event in events:
                version = str((event.object.get("metadata") or {}).get("resourceVersion") or version)
                if event.kind == "BOOKMARK":
                    continue
                gone = event.kind == "DELETED"
                self._take(_key(event.object), None if gone else self._keep(event.object))
        return version

    def _take(self, key: str, after: _Kept | None) -> None:
        before = self._kept.get(key)
        if before == after:
            return
        if after is None:
            del self._kept[key]
        else:
            self._kept[key] = after
        for follower in self._followers:
            follower(key, before, after)

    def _has_worked(self) -> None:
        if self.trouble is not None:
            _log.info("the API server answers again", path=self._path)
        self.trouble = None
        self._pace.worked()

    async def _wait_after(self, error: CitadelError) -> None:
        if self.trouble is None:
            _log.warning("cannot follow the API server", path=self._path, reason=error.reason, error=str(error))
        self.trouble = error
        self._pace.failed(longest=_LONGEST_PAUSE)
        asked = error.retry_after.total_seconds() if isinstance(error, ApiUnavailable) and error.retry_after else 0.0
        await self._clock.sleep(max(self._pace.wait, asked))


def _key(found: KubeObject) -> str:
    meta = found.get("metadata") or {}
    namespace, name = meta.get("namespace"), meta.get("name")
    return f"{namespace}/{name}" if namespace else str(name)
