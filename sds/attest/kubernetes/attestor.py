"""Attestation of callers in pods: what the kernel says of the process, and the API server of the pod around it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from weakref import WeakSet

from citadel.errors import PermissionDenied, Reason
from citadel.peer import Caller, Party
from sds.attest.kubernetes import cgroups
from sds.attest.kubernetes.cgroups import Placement
from sds.attest.kubernetes.facts import ALL_KINDS, KINDS_OF_CONTAINERS, NodePod, selectors_of
from sds.attest.kubernetes.metrics import Waits
from sds.attest.kubernetes.pods import NodePods
from sds.serve.callers import Attestation, WorkloadAttestor

_READING_THREADS: Final = 2  # of its own: the kernel holds a lock of all cgroups while it writes a path
UNPLACED: Final[Party] = "?"  # all together whose pod cannot be told, and who are refused everything for it
_MOVED: Final = "the caller moved to another pod or container while it was looked at"
_HOST_PIDS: Final = "run the agent in the pid namespace of the host (hostPID: true), as root or with CAP_SYS_PTRACE"


@dataclass(frozen=True, slots=True)
class _Basis:
    """The pod that an attestation was made of; None where there was none of this UID."""

    uid: str
    pod: NodePod | None


class KubernetesAttestor:
    """Fulfils `WorkloadAttestor` and `CallerNews`: what `others` see of the process, and `k8s:…` of its pod.

    A pod that is not known yet is waited for, once for each connection and no longer than `wait` seconds. What is not
    known then is not guessed: its kinds of selectors are unseen, and `trouble` says why.
    """

    def __init__(
        self, *, others: WorkloadAttestor, pods: NodePods, waits: Waits, wait: float, proc: Path = Path("/proc")
    ) -> None:
        self._others = others
        self._pods = pods
        self._waits = waits
        self._wait = wait
        self._proc = proc
        self._reading = ThreadPoolExecutor(_READING_THREADS, thread_name_prefix="cgroups")
        self._has_waited: WeakSet[Caller] = WeakSet()

    def close(self) -> None:
        """Start nothing more."""
        self._reading.shutdown(wait=False, cancel_futures=True)

    async def attest(self, caller: Caller, *, want_sha256: bool) -> Attestation:
        """See `WorkloadAttestor.attest`.

        Raises also `PermissionDenied` (`pod_unseen`) for a caller of which cannot be told whether it is in a pod.
        """
        placement = await self._placement(caller)
        seen = await self._others.attest(caller, want_sha256=want_sha256)
        if placement is not None:
            await self._wait_for(placement, caller)
        again = await self._placement(caller)
        # Last: only if the process still lives now did its pid mean this process all the while.
        if not caller.is_alive():
            raise _ended(caller)
        if again != placement:
            raise PermissionDenied(Reason.POD_UNSEEN, _MOVED, fix="try again")
        return seen if placement is None else self._with_pod(seen, placement)

    async def party_of(self, caller: Caller) -> Party:
        """See `PartyOf`: its pod, whoever its user is there, and the user where it is in none.

        Root of a container is root of nothing else, and pods of strangers have the same uids. Should the process have
        ended, and its number be another's, then its connection ends with it.
        """
        try:
            placement = await self._placement(caller)
        except PermissionDenied:
            return UNPLACED
        return caller.credentials.uid if placement is None else placement.pod_uid

    def still_holds(self, seen: Attestation) -> bool:
        """See `CallerNews.still_holds`."""
        basis = seen.basis
        return not isinstance(basis, _Basis) or self._pods.find(basis.uid) == basis.pod

    def wake_at_change(self, event: asyncio.Event, seen: Attestation | None) -> None:
        """See `CallerNews.wake_at_change`."""
        basis = seen.basis if seen is not None else None
        self._pods.wake_at_change(event, basis.uid if isinstance(basis, _Basis) else None)

    async def _wait_for(self, placement: Placement, caller: Caller) -> None:
        uid = placement.pod_uid
        if caller in self._has_waited or self._pods.find(uid) is not None or self._pods.is_gone(uid):
            return
        self._has_waited.add(caller)
        with self._waits.one() as wait:
            wait.has_seen = await self._pods.until_known(uid, seconds=self._wait) is not None

    def _with_pod(self, seen: Attestation, placement: Placement) -> Attestation:
        uid = placement.pod_uid
        pod = self._pods.find(uid)
        basis = _Basis(uid, pod)
        if pod is None:
            is_gone = self._pods.is_gone(uid)
            return replace(
                seen,
                basis=basis,
                is_in_pod=True,
                unseen=seen.unseen | ALL_KINDS,
                is_complete=seen.is_complete and is_gone,
                trouble=f"the caller's pod {uid} was deleted" if is_gone else self._why_unseen(uid),
                place=f"pod {uid}",
            )
        container = pod.container(placement.container_id)
        selectors = seen.selectors | selectors_of(pod, container)
        seen = replace(seen, basis=basis, is_in_pod=True, selectors=selectors, place=f"pod {pod.key}")
        if container is not None:
            return replace(seen, place=f"{seen.place}, container {container.name}")
        return replace(
            seen,
            unseen=seen.unseen | KINDS_OF_CONTAINERS,
            is_complete=False,
            trouble=f"the API server has not told which container of pod {pod.key} the caller runs in",
        )

    def _why_unseen(self, uid: str) -> str:
        if not self._pods.has_synced:
            return f"the caller's pod {uid} is not known: this agent has not heard from the API server yet"
        return f"the API server has told of no pod {uid} on this node, in which the caller runs"

    async def _placement(self, caller: Caller) -> Placement | None:
        try:
            own, its = await asyncio.get_running_loop().run_in_executor(
                self._reading, lambda: (self._paths("self"), self._paths(str(caller.credentials.pid)))
            )
        except OSError as error:
            if not caller.is_alive():
                raise _ended(caller) from error
            raise PermissionDenied(
                Reason.POD_UNSEEN,
                f"cannot read which cgroup process {caller.credentials.pid} is in: {error.strerror}",
                fix=_HOST_PIDS,
            ) from error
        return cgroups.placement(its, own)

    def _paths(self, pid: str) -> Mapping[str, cgroups.Path]:
        return cgroups.paths((self._proc / pid / "cgroup").read_bytes())


def _ended(caller: Caller) -> PermissionDenied:
    return PermissionDenied(Reason.CALLER_UNKNOWN, f"process {caller.credentials.pid} ended while it was looked at")
