"""On which node an agent is, and in which pod, as the API server says: its token alone tells what once was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ca.kubernetes.accounts import Named, ProvenAccount
from ca.kubernetes.pods import Pod, Pods, pod_of
from citadel.errors import CitadelError, NotFound, Reason, Unauthenticated
from citadel.kubernetes.ports import KubernetesApi
from citadel.kubernetes.reading import part
from citadel.selector import Selector

_FACT: Final = "node"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentPlace:
    """The pod of an agent, and its node. Where `is_followed`, the informer of pods had it and sees it go."""

    cluster: str
    pod: Pod
    node: Named
    is_followed: bool

    @property
    def selectors(self) -> frozenset[Selector]:
        """What the server vouches for."""
        facts = {
            "k8s-cluster": self.cluster,
            "k8s-node-name": self.node.name,
            "k8s-node-uid": self.node.uid,
            "k8s-ns": self.pod.namespace,
            "k8s-sa": self.pod.service_account,
            "k8s-pod-name": self.pod.name,
            "k8s-pod-uid": self.pod.uid,
        }
        return frozenset(Selector(_FACT, f"{name}:{value}") for name, value in facts.items())


def fact(selectors: frozenset[Selector], name: str) -> str:
    """The value of one of them, such as `k8s-pod-uid`; empty where there is none."""
    found = (each.value.partition(":") for each in selectors if each.type == _FACT)
    return next((value for key, _, value in found if key == name), "")


class Places:
    """Finds where the agent is whose token was reviewed."""

    def __init__(self, api: KubernetesApi, pods: Pods) -> None:
        self._api = api
        self.pods = pods

    async def of(self, account: ProvenAccount) -> AgentPlace:
        """Its place now.

        Raises `Unauthenticated` (`k8s_pod_unknown`) where the token is bound to no pod, or the pod or its node are not
        what they were when the token was made; `Unavailable` where the API server cannot say it now.
        """
        if account.pod is None:
            raise _unknown("the token is not bound to a pod")
        pod = await self.pod(account.namespace, account.pod)
        if pod is None or pod.has_ended:
            raise _unknown(f"pod {account.namespace}/{account.pod.name} with the UID that the token names is gone")
        if pod.service_account != account.name:
            raise _unknown(f"pod {pod.key} does not run as service account {account.key}")
        if not pod.node or (account.node is not None and pod.node != account.node.name):
            raise _unknown(f"pod {pod.key} is not on the node that the token names")
        is_followed = self.pods.with_uid(pod.uid) is not None
        node = await self.node(pod.node)
        if node is None or (account.node is not None and node.uid != account.node.uid):
            # It can have come back under its name as another machine, while its pods are not cleared away yet.
            raise _unknown(f"node {pod.node} is not there any more, or not the one that the token was made on")
        return AgentPlace(cluster=account.cluster, pod=pod, node=node, is_followed=is_followed)

    def refuse_gone(self, place: AgentPlace) -> None:
        """Raises `Unauthenticated` (`k8s_pod_unknown`) where the pod has left the place since that was found."""
        if not place.is_followed:
            return
        pod = self.pods.with_uid(place.pod.uid)
        if pod is None or pod.has_ended or pod.node not in {"", place.node.name}:  # told of before it was bound
            raise _unknown(f"pod {place.pod.key} went while it was asked for")

    async def pod(self, namespace: str, named: Named) -> Pod | None:
        """The pod now, from what is followed where it is there on its node: what is not may not have been told yet.

        None says that the API server has no such pod. Raises `Unavailable` where it cannot say it now.
        """
        if (known := self.pods.with_uid(named.uid)) is not None and known.node and self.pods.has_synced:
            return known if (known.namespace, known.name) == (namespace, named.name) else None
        try:
            found = pod_of(await self._api.get(f"/api/v1/namespaces/{namespace}/pods/{named.name}"))
        except NotFound:
            return None
        return found if found is not None and found.uid == named.uid else None

    async def node(self, name: str) -> Named | None:
        """The node of this name as the API server says it now; None says that there is none."""
        try:
            found = part(await self._api.get(f"/api/v1/nodes/{name}"), "metadata")
        except NotFound:
            return None
        return Named(name, str(found["uid"])) if found.get("uid") else None


def _unknown(why: str) -> CitadelError:
    return Unauthenticated(Reason.K8S_POD_UNKNOWN, why, fix="use the projected token of a running pod")
