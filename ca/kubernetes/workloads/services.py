"""The services of a cluster, and which of them select a pod."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ca.kubernetes.pods import Pod
from citadel.errors import CitadelError
from citadel.kubernetes.informer import Informer
from citadel.kubernetes.ports import KubeObject

SERVICES: Final = "/api/v1/services"

_Label = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One that selects pods; headless or not makes no difference to its name."""

    namespace: str
    name: str
    selector: frozenset[_Label]


def service_of(found: KubeObject) -> Service | None:
    """The service, or None for one that selects no pods: without a selector, or a name for something outside."""
    meta, spec = found.get("metadata") or {}, found.get("spec") or {}
    selector = spec.get("selector") or {}
    if not selector or spec.get("type") == "ExternalName" or not (meta.get("namespace") and meta.get("name")):
        return None
    return Service(
        namespace=str(meta["namespace"]),
        name=str(meta["name"]),
        selector=frozenset((str(key), str(value)) for key, value in selector.items()),
    )


class Services:
    """The services of one cluster, found by one of the labels that they want."""

    def __init__(self, informer: Informer[Service]) -> None:
        self._informer = informer
        self._by_label: defaultdict[tuple[str, _Label], dict[str, Service]] = defaultdict(dict)
        informer.follow(self._index)

    @property
    def has_synced(self) -> bool:
        """Whether all are known."""
        return self._informer.has_synced

    @property
    def trouble(self) -> CitadelError | None:
        """Why they cannot be followed just now."""
        return self._informer.trouble

    def selecting(self, pod: Pod) -> list[str]:
        """The names of those that select this pod, sorted."""
        labels = frozenset(pod.labels)
        found = (
            service.name
            for label in pod.labels
            for service in self._by_label.get((pod.namespace, label), {}).values()
            if service.selector <= labels
        )
        return sorted(found)

    def follow(self, in_namespace: Callable[[str], None]) -> None:
        """Tell of each namespace in which a service changes."""
        self._informer.follow(lambda key, *_: in_namespace(key.partition("/")[0]))

    async def until_synced(self) -> None:
        """Wait until all are known."""
        await self._informer.until_synced()

    async def run(self) -> None:
        """Follow them for ever."""
        await self._informer.run()

    def _index(self, key: str, before: Service | None, after: Service | None) -> None:
        if before is not None:
            at = (before.namespace, min(before.selector))
            self._by_label[at].pop(key, None)
            if not self._by_label[at]:
                del self._by_label[at]
        if after is not None:
            self._by_label[after.namespace, min(after.selector)][key] = after


def names_of(services: Sequence[str], namespace: str, cluster_domain: str) -> Iterator[str]:
    """How the services of a namespace are called within the cluster."""
    for name in services:
        yield f"{name}.{namespace}.svc"
        yield f"{name}.{namespace}.svc.{cluster_domain}"
