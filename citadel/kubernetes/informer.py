"""Following a collection of the API server: listed once, then watched, so that reading it costs no call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from random import SystemRandom
from types import MappingProxyType
from typing import Final, Generic, Protocol, TypeVar

import structlog

from citadel.clock import Clock
from citadel.errors import CitadelError, Reason, Unavailable
from citadel.kubernetes.ports import ApiUnavailable, KubeObject, KubernetesApi, WatchExpired
from citadel.pace import Pace

_LONGEST_PAUSE: Final = 30.0  # seconds between tries while the API server is away
_LIST_AGAIN: Final = 1800.0  # seconds; whatever a watch did not tell is known then, such as after etcd was restored
_GOOD_WATCH: Final = 5.0  # seconds; an end before that is no end in due time, however it is said

_Kept = TypeVar("_Kept")
_Kept_contra = TypeVar("_Kept_contra", contravariant=True)

_log = structlog.get_logger(__name__)


class Follower(Protocol[_Kept_contra]):
    """Told of each change after the informer has taken it, on the loop; it must not block. What it raises is logged."""

    def __call__(self, key: str, before: _Kept_contra | None, after: _Kept_contra | None) -> None:
        """`before` is None for what is new, `after` for what has gone."""
        ...


class Informer(Generic[_Kept]):
    """What is in a collection now, as far as the API server has told.

    `keep` makes of an object what is kept of it, or None for what is of no interest. While the API server is away
    everything stays as it was last known. It is asked again with growing pauses, each drawn, so that many informers do
    not come back in one instant; what was missed meanwhile is told as the difference that it made.
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
        self._version = ""
        self._listed_at = 0.0
        self._opened: float | None = None  # when the present watch was
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
        """List and watch for ever, whatever happens."""
        while True:
            self._opened = None
            goes_on = bool(self._version) and self._clock.monotonic() - self._listed_at < _LIST_AGAIN
            try:
                if not goes_on:
                    await self._list()
                await self._watch()
            except WatchExpired:
                self._version = ""
                trouble = None
                if goes_on:
                    # An API server that was started anew says so, and whoever has waited for it waits no longer.
                    continue
            except CitadelError as error:
                trouble = error
            except Exception as error:  # noqa: BLE001 - whatever the package raises, what is followed must not be forgotten
                _log.exception("an informer met with something unexpected", path=self._path)
                self._version = ""
                trouble = Unavailable(Reason.KUBERNETES_UNAVAILABLE, f"{self._path} cannot be followed: {error!r}")
            else:
                trouble = None
            await self._rest(trouble)

    async def _list(self) -> None:
        listed = await self._api.list(self._path, labels=self._labels, fields=self._fields, each=self._read)
        found = dict(each for each in listed.items if each[0])
        for key in self._kept.keys() - found.keys():
            self._take(key, None)
        for key, each in found.items():
            self._take(key, each)
        self._version, self._listed_at = listed.resource_version, self._clock.monotonic()
        self._has_worked()
        self._synced.set()

    async def _watch(self) -> None:
        """Follow until the API server ends the watch. The version goes along, so that nothing is told twice."""
        opened = self._api.watch(self._path, resource_version=self._version, labels=self._labels, fields=self._fields)
        async with opened as events:
            self._opened = self._clock.monotonic()
            self._has_worked()
            async for event in events:
                version = _text(event.object, "resourceVersion")
                if event.kind != "DELETED" and _is_before(version, self._version):
                    raise WatchExpired(f"version {version} came after {self._version}: what was known may be no more")
                if event.kind == "DELETED":
                    self._take(_key(event.object), None)
                elif event.kind in ("ADDED", "MODIFIED"):
                    self._take(*self._read(event.object))
                self._version = version or self._version

    def _read(self, found: KubeObject) -> tuple[str, _Kept | None]:
        """Its key, empty for what is none, and what is kept of it; what was before, where it cannot be read."""
        key = _key(found)
        try:
            return key, self._keep(found) if key else None
        except Exception:  # noqa: BLE001 - one object must not stop the others
            _log.exception("an object cannot be read", path=self._path, key=key)
            return key, self._kept.get(key)

    def _take(self, key: str, after: _Kept | None) -> None:
        before = self._kept.get(key)
        if before == after:
            return
        if after is None:
            del self._kept[key]
        else:
            self._kept[key] = after
        for follower in self._followers:
            try:
                follower(key, before, after)
            except Exception:  # noqa: BLE001 - the others are told nevertheless
                _log.exception("a change could not be taken in", path=self._path, key=key)

    def _has_worked(self) -> None:
        if self.trouble is not None:
            _log.info("the API server answers again", path=self._path)
        self.trouble = None

    async def _rest(self, trouble: CitadelError | None) -> None:
        """Before the next try. A watch that ended after a while needs none: servers and what is between end them."""
        if self._opened is not None and self._clock.monotonic() - self._opened >= _GOOD_WATCH:
            self._pace.worked()
            if trouble is None or isinstance(trouble, ApiUnavailable):
                return
        if trouble is not None:
            if self.trouble is None:
                _log.warning("cannot follow the API server", path=self._path, reason=trouble.reason, error=str(trouble))
            self.trouble = trouble
        self._pace.failed(longest=_LONGEST_PAUSE)
        # Both: the API server asks many at once to come back in the same number of seconds.
        asked = trouble.retry_after if isinstance(trouble, ApiUnavailable) else None
        await self._clock.sleep((asked.total_seconds() if asked is not None else 0) + self._pace.wait)


def _is_before(version: str, other: str) -> bool:
    """Whether an API server wrote it earlier, where both are numbers, as those of Kubernetes are."""
    return version.isdecimal() and other.isdecimal() and int(version) < int(other)


def _key(found: KubeObject) -> str:
    """Empty for what is no object that an API server keeps."""
    namespace, name = _text(found, "namespace"), _text(found, "name")
    return f"{namespace}/{name}" if namespace and name else name


def _text(found: KubeObject, field: str) -> str:
    meta = found.get("metadata")
    text = meta.get(field) if isinstance(meta, Mapping) else None
    return text if isinstance(text, str) else ""
