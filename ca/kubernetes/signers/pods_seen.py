"""Whether a pod is there, as whom, and where: as the pods of the cluster are known (pure)."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class PodClaim:
    """A pod as a request says it; `node` may be empty, where nothing is said of it."""

    account: Account
    name: str
    uid: str
    node: str = ""


def check_pod(claim: PodClaim, pods: KnownPods, *, waits: bool) -> None:
    """That there is such a pod. While it `waits` one that is not known may be told of in a moment: nothing is guessed.

    Raises `PermissionDenied` (`k8s_pod_unknown`), or `Unavailable` of the same reason where it is to be asked again.
    """
    named = f"pod {claim.account.namespace}/{claim.name} of UID {claim.uid}"
    pod = pods.with_uid(claim.uid)
    if pod is None:
        if waits or not pods.has_synced or pods.trouble is not None:
            raise Unavailable(Reason.K8S_POD_UNKNOWN, f"{named} is not known yet")
        raise PermissionDenied(Reason.K8S_POD_UNKNOWN, f"{named} is not there any more")
    if pod.has_ended:
        raise PermissionDenied(Reason.K8S_POD_UNKNOWN, f"{named} has ended")
    if (pod.namespace, pod.name, pod.service_account) != (claim.account.namespace, claim.name, claim.account.name):
        raise PermissionDenied(Reason.K8S_POD_UNKNOWN, f"{named} is {pod.key}, and runs as {pod.service_account}")
    if claim.node and claim.node != pod.node:
        raise PermissionDenied(Reason.K8S_POD_UNKNOWN, f"{named} does not run on node {claim.node}")
