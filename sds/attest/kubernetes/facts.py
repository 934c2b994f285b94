"""What a pod is, from what the API server says of it, and which selectors that makes (pure)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from citadel.errors import InvalidArgument
from citadel.kubernetes.ports import KubeObject
from citadel.kubernetes.reading import part, parts, text
from citadel.selector import Selector

TYPE: Final = "k8s"
_OF_PODS: Final = ("ns", "sa", "pod-name", "pod-uid", "pod-label", "pod-owner", "node-name")
_OF_CONTAINERS: Final = ("container-name", "container-image")
KINDS_OF_CONTAINERS: Final = frozenset(f"{TYPE}:{each}" for each in _OF_CONTAINERS)
ALL_KINDS: Final = KINDS_OF_CONTAINERS | {f"{TYPE}:{each}" for each in _OF_PODS}

# A pod that kubelet runs by itself, from a file: the API has a mirror of it, with another UID than kubelet's own.
_IS_MIRROR: Final = "kubernetes.io/config.mirror"
_OWN_UID: Final = "kubernetes.io/config.hash"
_KINDS_OF_CONTAINER: Final = ("containers", "initContainers", "ephemeralContainers")
_KINDS_OF_STATUS: Final = ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses")
_PULLABLE: Final = "docker-pullable://"


@dataclass(frozen=True, slots=True)
class Container:
    """One that runs or ran. `images` are its image as the pod names it, and as it was resolved."""

    id: str
    name: str
    images: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePod:
    """What is kept of a pod of this node. `uid` is that of the API, `kubelet_uid` that of its cgroup."""

    namespace: str
    name: str
    uid: str
    kubelet_uid: str
    node: str
    service_account: str
    labels: tuple[tuple[str, str], ...]
    owners: tuple[tuple[str, str], ...]
    containers: tuple[Container, ...]

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @property
    def is_mirror(self) -> bool:
        """Whether kubelet runs it by itself: then the API knows it by another UID."""
        return self.uid != self.kubelet_uid

    def container(self, container_id: str) -> Container | None:
        """The container of this ID, None while nobody has told that it runs."""
        return next((each for each in self.containers if container_id and each.id == container_id), None)


def pod_of(found: KubeObject) -> NodePod | None:
    """The pod, None where the object is none that an API server writes."""
    meta, spec, status = part(found, "metadata"), part(found, "spec"), part(found, "status")
    namespace, name, uid = text(meta, "namespace"), text(meta, "name"), text(meta, "uid")
    if not (namespace and name and uid):
        return None
    account = text(spec, "serviceAccountName")
    return NodePod(
        namespace=sys.intern(namespace),
        name=name,
        uid=uid,
        kubelet_uid=_kubelet_uid(meta, account) or uid,
        node=sys.intern(text(spec, "nodeName")),
        service_account=sys.intern(account),
        labels=tuple(
            sorted((sys.intern(str(key)), sys.intern(str(value))) for key, value in part(meta, "labels").items())
        ),
        owners=tuple((text(each, "kind"), text(each, "name")) for each in parts(meta, "ownerReferences")),
        containers=tuple(_containers(spec, status)),
    )


def selectors_of(pod: NodePod, container: Container | None) -> frozenset[Selector]:
    """All selectors of a caller in this pod, and in this container where it is known."""
    values = [f"ns:{pod.namespace}", f"pod-name:{pod.name}", f"pod-uid:{pod.uid}", f"node-name:{pod.node}"]
    values += [f"sa:{pod.service_account}"] if pod.service_account else []  # mirrors have none
    values += [f"pod-label:{key}:{value}" for key, value in pod.labels]
    values += [f"pod-owner:{kind}:{name}" for kind, name in pod.owners]
    if container is not None:
        values += [f"container-name:{container.name}", *(f"container-image:{each}" for each in container.images)]
    found = set()
    for value in values:
        with suppress(InvalidArgument):  # no entry could ask for it
            found.add(Selector(TYPE, value))
    return frozenset(found)


def _kubelet_uid(meta: Mapping[str, Any], account: str) -> str:
    """Of a mirror. Who may make pods may write the same, but only kubelet's pods have no service account."""
    notes = part(meta, "annotations")
    owners = [text(each, "kind") for each in parts(meta, "ownerReferences")]
    is_mirror = not account and owners == ["Node"] and _IS_MIRROR in notes
    return text(notes, _OWN_UID) if is_mirror else ""


def _containers(spec: Mapping[str, Any], status: Mapping[str, Any]) -> Iterator[Container]:
    """Those whose ID was told: a container that has not begun has none."""
    named = {text(each, "name"): text(each, "image") for kind in _KINDS_OF_CONTAINER for each in parts(spec, kind)}
    for each in (each for kind in _KINDS_OF_STATUS for each in parts(status, kind)):
        name, container_id = text(each, "name"), text(each, "containerID").rpartition("://")[2]
        if container_id and name in named:
            images = (named[name], text(each, "imageID").removeprefix(_PULLABLE))
            yield Container(
                container_id, sys.intern(name), tuple(sys.intern(image) for image in dict.fromkeys(images) if image)
            )
