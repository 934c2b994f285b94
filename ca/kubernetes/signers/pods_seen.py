"""Whether a pod is there, as whom, and where: as the pods of the cluster are known.

What follows them can be behind without knowing it, and a refusal is final: before one, the API server is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ca.kubernetes.pods import Pod
from ca.kubernetes.signers.accounts import Account
from citadel.errors import CitadelError, PermissionDenied, Reason, Unavailable


class KnownPods(Protocol):
    """The pods of a cluster."""

    @property
    def has_synced(self) -> bool:
        """Whether all are known."""
        ...

    @property
    def trouble(self) -> CitadelError | None:
        """Why they cannot be followed just now."""
        ...

    def with_uid(self, uid: str) -> Pod | None:
        """The pod of this UID."""
        ...


class AskedPods(KnownPods, Protocol):
    """The pods of a cluster, whose API server can be asked."""

    async def asked(self, namespace: str, name: str, uid: str) -> Pod | None:
        """The pod as the API server says now. Raises `Unavailable` where it cannot say."""
        ...


@dataclass(frozen=True, slots=True)
class _Answered:
    """The one pod that was asked for."""

    pod: Pod | None
    has_synced: bool = True
    trouble: CitadelError | None = None

    def with_uid(self, uid: str) -> Pod | None:
        return self.pod if self.pod is not None and self.pod.uid == uid else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PodClaim:
    """A pod as a request says it; `node` may be empty, where nothing is said of it."""

    account: Account
    name: str
    uid: str
    node: str = ""


async def pods_for(claim: PodClaim | None, pods: AskedPods, *, waits: bool) -> KnownPods:
    """What to check the claim by: the pods as followed, or the answer where those do not know it. Raises as `asked`.

    A pod is told of before it is bound: whose node is claimed and not known yet is as good as not known.
    """
    if claim is None or waits:
        return pods
    if (pod := pods.with_uid(claim.uid)) is not None and (pod.node or not claim.node):
        return pods
    return _Answered(await pods.asked(claim.account.namespace, claim.name, claim.uid))


def check_pod(claim: PodClaim, pods: KnownPods, *, waits: bool) -> None:
    """That there is such a pod. While it `waits` it, or its node, may be told of in a moment: nothing is guessed.

    Raises `PermissionDenied` (`k8s_pod_unknown`), or `Unavailable` of the same reason where it is to be asked again.
    """
    named = f"pod {claim.account.namespace}/{claim.name} of UID {claim.uid}"
    pod = pods.with_uid(claim.uid)
    is_all_told = not waits and pods.has_synced and pods.trouble is None
    if pod is None:
        if not is_all_told:
            raise Unavailable(Reason.K8S_POD_UNKNOWN, f"{named} is not known yet")
        raise PermissionDenied(Reason.K8S_POD_UNKNOWN, f"{named} is not there any more")
    if pod.has_ended:
        raise PermissionDenied(Reason.K8S_POD_UNKNOWN, f"{named} has ended")
    if (pod.namespace, pod.name, pod.service_account) != (claim.account.namespace, claim.name, claim.account.name):
        raise PermissionDenied(Reason.K8S_POD_UNKNOWN, f"{named} is {pod.key}, and runs as {pod.service_account}")
    if claim.node and not pod.node and not is_all_told:
        raise Unavailable(Reason.K8S_POD_UNKNOWN, f"it is not known yet on which node {named} is")
    if claim.node and claim.node != pod.node:
        raise PermissionDenied(Reason.K8S_POD_UNKNOWN, f"{named} does not run on node {claim.node}")
