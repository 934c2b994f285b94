"""All pods of a cluster as its API server tells them: one watch, shared by all who ask which pod lives where."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from ca.kubernetes.shared_calls import SharedCalls
from citadel.clock import Clock
from citadel.errors import CitadelError, NotFound
from citadel.kubernetes.informer import Follower, Informer
from citadel.kubernetes.ports import KubeObject, KubernetesApi
from citadel.kubernetes.reading import part, parts

PODS: Final = "/api/v1/pods"
_QUESTIONS: Final = 16  # at a time
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")  # of a namespace, a pod or a node: no path
_NONE: Final[Mapping[str, Pod]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Owner:
    """What a pod was made by, such as a ReplicaSet."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """What is kept of a pod. `node` is empty until it is bound to one.

    `service_account` is empty for a mirror of what a kubelet runs by itself. A kubelet makes those in any namespace,
    so they are never taken for pods of that namespace's default account.
    """

    namespace: str
    name: str
    uid: str
    node: str
    service_account: str
    labels: tuple[tuple[str, str], ...]
    owners: tuple[Owner, ...]
    phase: str
    ips: tuple[str, ...]
    created: str = ""  # RFC 3339 in UTC and whole seconds, so that it sorts

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @property
    def has_ended(self) -> bool:
        """Whether its containers have, for good."""
        return self.phase in ("Succeeded", "Failed")


class Pods:
    """The pods of one cluster now, as far as it has told; `run` follows them.

    A watch can be behind, and silent for minutes before that is noticed. So what it has not told of proves nothing:
    who would refuse somebody for good because of that asks for the pod first, by `asked` or `asked_on_node`.
    """

    def __init__(self, api: KubernetesApi, *, clock: Clock) -> None:
        self._api = api
        self._questions: SharedCalls[tuple[Pod, ...]] = SharedCalls(_QUESTIONS, clock=clock)
        self._informer = Informer(api, PODS, keep=pod_of, clock=clock)
        self._by_uid: dict[str, Pod] = {}
        self._by_node: dict[str, dict[str, Pod]] = {}
        self._informer.follow(self._index)  # before all others, who find what they are told of

    @property
    def has_synced(self) -> bool:
        """Whether all pods are known. Until then one that is not known may exist nevertheless."""
        return self._informer.has_synced

    @property
    def trouble(self) -> CitadelError | None:
        """Why they cannot be followed just now."""
        return self._informer.trouble

    @property
    def current(self) -> Mapping[str, Pod]:
        """Every pod, by `namespace/name`."""
        return self._informer.current

    def named(self, namespace: str, name: str) -> Pod | None:
        """The pod that has this name now."""
        return self.current.get(f"{namespace}/{name}")

    def with_uid(self, uid: str) -> Pod | None:
        """The pod of this UID, which no other ever has."""
        return self._by_uid.get(uid)

    def on_node(self, node: str) -> Mapping[str, Pod]:
        """The pods that are bound to this node, by UID."""
        return MappingProxyType(self._by_node.get(node, _NONE))

    async def asked(self, namespace: str, name: str, uid: str) -> Pod | None:
        """The pod of this name and UID, as the API server says now. Raises `Unavailable` where it cannot say."""
        if not (_NAME.fullmatch(namespace) and _NAME.fullmatch(name)):
            return None

        async def ask() -> tuple[Pod, ...]:
            try:
                found = pod_of(await self._api.get(f"/api/v1/namespaces/{namespace}/pods/{name}"))
            except NotFound:
                return ()
            return () if found is None else (found,)

        # By its UID too: an answer that is under way can be older than the pod that has the name now.
        found = await self._questions.once((namespace, name, uid), ask)
        return next((pod for pod in found if pod.uid == uid), None)

    async def asked_on_node(self, node: str, *, namespace: str, account: str) -> tuple[Pod, ...]:
        """The pods of this account that are bound to this node, as the API server says now. Raises as `asked`."""
        if not (_NAME.fullmatch(namespace) and _NAME.fullmatch(node)):
            return ()

        async def ask() -> tuple[Pod, ...]:
            path, fields = f"/api/v1/namespaces/{namespace}/pods", f"spec.nodeName={node}"
            return tuple(filter(None, (await self._api.list(path, fields=fields, each=pod_of)).items))

        found = await self._questions.once((node, namespace, account), ask)
        return tuple(pod for pod in found if (pod.node, pod.service_account) == (node, account))

    def follow(self, follower: Follower[Pod]) -> None:
        """Tell `follower` of every change from now on. One name can pass from a pod to another in one change."""
        self._informer.follow(follower)

    async def until_synced(self) -> None:
        """Wait until all pods are known."""
        await self._informer.until_synced()

    async def run(self) -> None:
        """Follow them for ever."""
        await self._informer.run()

    def _index(self, key: str, before: Pod | None, after: Pod | None) -> None:
        del key
        if before is not None:
            self._by_uid.pop(before.uid, None)
            on_node = self._by_node.get(before.node, {})
            on_node.pop(before.uid, None)
            if not on_node:
                self._by_node.pop(before.node, None)
        if after is not None:
            self._by_uid[after.uid] = after
            if after.node:
                self._by_node.setdefault(after.node, {})[after.uid] = after


def pod_of(found: KubeObject) -> Pod | None:
    """The pod, or None where the object is none that an API server writes."""
    meta, spec, status = part(found, "metadata"), part(found, "spec"), part(found, "status")
    if not (meta.get("namespace") and meta.get("name") and meta.get("uid")):
        return None
    # Thousands of pods share namespaces, nodes, labels and owners: each text is kept once.
    return Pod(
        namespace=_text(meta, "namespace"),
        name=str(meta["name"]),
        uid=str(meta["uid"]),
        node=_text(spec, "nodeName"),
        service_account=_text(spec, "serviceAccountName"),
        labels=tuple(
            (sys.intern(str(name)), sys.intern(str(value))) for name, value in sorted(part(meta, "labels").items())
        ),
        owners=tuple(
            Owner(_text(owner, "kind"), _text(owner, "name"), _text(owner, "uid"))
            for owner in parts(meta, "ownerReferences")
        ),
        phase=_text(status, "phase"),
        ips=tuple(str(each.get("ip", "")) for each in parts(status, "podIPs")),
        created=str(meta.get("creationTimestamp") or ""),
    )


def _text(found: Mapping[str, Any], name: str) -> str:
    return sys.intern(str(found.get(name) or ""))
