"""An API server in memory, for what a real one cannot be brought to do at the right moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from citadel.errors import CitadelError, FailedPrecondition, NotFound, Reason
from citadel.kubernetes.ports import Each, KubeObject, Listed, WatchEvent, as_it_is

_SUBRESOURCES = frozenset({"status", "approval"})

Answer = Callable[[KubeObject], KubeObject]


@dataclass
class FakeKubernetes:
    """Fulfils `KubernetesApi`: objects by their paths. `fails` is raised by every call while it is set.

    `answers` are for what is only asked, such as reviews: by the path that is posted to. `calls` are kept in order.
    `meanwhile` happens while the object at its path is asked for.
    """

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    meanwhile: dict[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)
    fails: CitadelError | None = None
    calls: list[tuple[str, str]] = field(default_factory=list)
    watchers: dict[str, list[asyncio.Queue[WatchEvent | CitadelError | None]]] = field(default_factory=dict)
    history: list[tuple[int, str, WatchEvent]] = field(default_factory=list)
    version: int = 0

    async def get(self, path: str) -> KubeObject:
        self._called("get", path)
        if path in self.meanwhile:
            await self.meanwhile[path]()
        return self._found(path)

    async def list(self, path: str, *, labels: str = "", fields: str = "", each: Each = as_it_is) -> Listed:
        del labels, fields
        self._called("list", path)
        items = tuple(each(found) for at, found in self.objects.items() if _is_in(path, at))
        return Listed(items=items, resource_version=str(self.version))

    async def create(self, path: str, body: KubeObject) -> KubeObject:
        self._called("create", path)
        if path in self.answers:
            return self.answers[path](body)
        at = f"{path}/{body['metadata']['name']}"
        if at in self.objects:
            raise FailedPrecondition(Reason.KUBERNETES_CONFLICT, at)
        return self.put(at, body)

    async def apply(self, path: str, body: KubeObject, *, force: bool = True) -> KubeObject:
        del force
        self._called("apply", path)
        return self.put(path, body)

    async def replace(self, path: str, body: KubeObject) -> KubeObject:
        self._called("replace", path)
        of, _, part = path.rpartition("/")
        at = of if part in _SUBRESOURCES else path
        now, meant = self._found(at), body.get("metadata", {}).get("resourceVersion")
        if meant not in (None, now["metadata"]["resourceVersion"]):
            raise FailedPrecondition(Reason.KUBERNETES_CONFLICT, f"PUT {path}: the object has been modified")
        return self.put(at, {**now, "status": body["status"]} if at == of else body)

    async def delete(self, path: str) -> None:
        self._called("delete", path)
        self.drop(path)

    @asynccontextmanager
    async def watch(
        self, path: str, *, resource_version: str, labels: str = "", fields: str = ""
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        del labels, fields
        self._called("watch", path)
        queue: asyncio.Queue[WatchEvent | CitadelError | None] = asyncio.Queue()
        for version, at, event in self.history:
            if version > int(resource_version) and _is_in(path, at):
                queue.put_nowait(event)
        self.watchers.setdefault(path, []).append(queue)
        try:
            yield _events(queue)
        finally:
            self.watchers[path].remove(queue)

    def put(self, path: str, body: KubeObject) -> dict[str, Any]:
        """Have this object from now on, as if somebody else had written it."""
        self.version += 1
        kind = "MODIFIED" if path in self.objects else "ADDED"
        known = self.objects.get(path, {}).get("metadata", {}).get("uid", f"uid-{self.version}")
        meta = {"uid": known, **body.get("metadata", {}), "resourceVersion": str(self.version)}
        self.objects[path] = {**body, "metadata": meta}
        self._tell(path, WatchEvent(kind, self.objects[path]))
        return self.objects[path]

    def drop(self, path: str) -> None:
        """Have it no more."""
        self.version += 1
        if (gone := self.objects.pop(path, None)) is not None:
            self._tell(path, WatchEvent("DELETED", gone))

    def break_watches(self, error: CitadelError | None = None) -> None:
        """End every open watch, with `error` where one is given."""
        for queues in self.watchers.values():
            for queue in queues:
                queue.put_nowait(error)

    def _called(self, verb: str, path: str) -> None:
        self.calls.append((verb, path))
        if self.fails is not None:
            raise self.fails

    def _found(self, path: str) -> dict[str, Any]:
        if path not in self.objects:
            raise NotFound(Reason.KUBERNETES_NOT_FOUND, f"GET {path}: not found")
        return self.objects[path]

    def _tell(self, path: str, event: WatchEvent) -> None:
        self.history.append((self.version, path, event))
        for watched, queues in self.watchers.items():
            if _is_in(watched, path):
                for queue in queues:
                    queue.put_nowait(event)


async def _events(queue: asyncio.Queue[WatchEvent | CitadelError | None]) -> AsyncIterator[WatchEvent]:
    while (event := await queue.get()) is not None:
        if isinstance(event, CitadelError):
            raise event
        yield event


def _is_in(collection: str, path: str) -> bool:
    """Whether the object at `path` is in it, or in one of the namespaces where `collection` is that of all of them."""
    at = path.rpartition("/")[0]
    base, _, kind = collection.rpartition("/")
    return at == collection or (at.startswith(f"{base}/namespaces/") and at.endswith(f"/{kind}"))
