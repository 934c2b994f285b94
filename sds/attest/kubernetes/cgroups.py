"""Which pod a process runs in, by the paths of its cgroups (pure).

Sources: cgroups(7), `/proc/PID/cgroup`; cgroup_namespaces(7), of paths that begin with `/..`; systemd.slice(5), by
which `a-b.slice` lies in `a.slice`; what kubelet and the runtimes make was read in their sources.

A process cannot write its own path, but whoever has a cgroup to itself can make others below it and give them any name,
such as that of another pod. So only the outermost pod of a path counts, and only where this node has its pods: below
cgroups that hold this process too, which nobody else rules over.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from citadel.errors import PermissionDenied, Reason

_ROOT: Final = "kubepods"
_QUALITIES: Final = ((), ("burstable",), ("besteffort",))  # guaranteed pods have no cgroup of their kind
_POD: Final = re.compile(r"pod([0-9A-Za-z-]{1,128})")
# kubelet writes '-' as '_' in the names of slices, where it parts the levels; runc without systemd takes the slice, the
# runtime and the container as one name.
_SLICE: Final = re.compile(r"((?:[^-]+-)+)pod([0-9A-Za-z_]{1,128})\.slice(?::[a-z-]+:([0-9a-f]{64}))?")
_CONTAINER: Final = re.compile(r"(?:(?:cri-containerd|crio|docker)-)?([0-9a-f]{64})(?:\.scope)?")
_MONITOR: Final = "crio-conmon-"  # CRI-O's own process beside each container, which is no part of it
_UP: Final = ".."
_LEAST_UP: Final = 2  # from a container's cgroup over its pod's to where other pods are
_MOST_SHOWN: Final = 300  # characters of a path that are repeated in a refusal

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """A pod by its UID as kubelet has it, and a container by its ID; that is empty where it is none that is known."""

    pod_uid: str
    container_id: str = ""


@dataclass(frozen=True, slots=True)
class _Pod:
    """A pod's own cgroup. `above` are those that kubelet has over it, the outermost first."""

    uid: str
    above: Path
    container_id: str = ""


def paths(told: bytes) -> Mapping[str, Path]:
    """`/proc/PID/cgroup`: the path in each hierarchy, by its controllers (none for that of version 2)."""
    # A newline alone ends a line: it is all that the kernel forbids in a cgroup's name (cgroup_mkdir), and Python's own
    # lines end at a carriage return and others too, behind which a name could hold a line of its own.
    lines = (os.fsdecode(line).split(":", 2) for line in told.split(b"\n"))
    return {line[1]: tuple(each for each in line[2].split("/") if each) for line in lines if len(line) == 3}


def placement(caller: Mapping[str, Path], own: Mapping[str, Path]) -> Placement | None:
    """Where the caller runs, None where it is in no pod; `own` are the paths of this process.

    Raises:
        PermissionDenied: `pod_unseen` where hierarchies name different pods, or one names a pod where none can be.
    """
    found = dict.fromkeys(
        each for controllers, path in caller.items() if (each := _placement(path, own.get(controllers, ()))) is not None
    )
    if len(found) > 1:
        names = " and ".join(f"{each.pod_uid}/{each.container_id or '?'}" for each in found)
        raise PermissionDenied(Reason.POD_UNSEEN, f"the caller's cgroups name different pods or containers: {names}")
    return next(iter(found), None)


def _placement(path: Path, own: Path) -> Placement | None:
    up = next((number for number, name in enumerate(path) if name != _UP), len(path))
    seen = path[up:]
    at, pod = next(_pods(seen, is_cut=up > 0), (0, None))
    if pod is None:
        return None
    if not _is_where_pods_are(seen[:at], pod, up=up, own=own):
        raise PermissionDenied(
            Reason.POD_UNSEEN,
            f"the caller's cgroup is named like a pod's, where this node has none: {'/'.join(path)[:_MOST_SHOWN]!r}",
            fix="run the agent in a pod of this node, or on the node itself",
        )
    inner = seen[at + 1] if at + 1 < len(seen) else ""
    if inner.startswith(_MONITOR):
        return None
    container = _CONTAINER.fullmatch(inner)
    return Placement(pod.uid, pod.container_id or (container.group(1) if container is not None else ""))


def _pods(seen: Path, *, is_cut: bool) -> Iterator[tuple[int, _Pod]]:
    """Every name that is a pod's, the outermost first. Where the path `is_cut` the first names may be missing."""
    for at, name in enumerate(seen):
        if (found := _SLICE.fullmatch(name)) is not None:
            parts = found.group(1).removesuffix("-").split("-")
            if _ROOT in parts:
                above = tuple(f"{each}.slice" for each in accumulate(parts, "{}-{}".format))
                yield at, _Pod(found.group(2).replace("_", "-"), above, found.group(3) or "")
        elif (found := _POD.fullmatch(name)) is not None:
            for quality in _QUALITIES:
                above = (_ROOT, *quality)
                if _ends_with(seen[:at], above) or (is_cut and _ends_with(above, seen[:at])):
                    yield at, _Pod(found.group(1), above)
                    break


def _is_where_pods_are(before: Path, pod: _Pod, *, up: int, own: Path) -> bool:
    if up:  # what is cut off is above this process's own cgroup
        return up >= _LEAST_UP and (_ends_with(pod.above, before) or before == ("kubelet", *pod.above))
    around = before[: -len(pod.above)] if _ends_with(before, pod.above) else before
    if around == before and not pod.container_id:
        return False
    # Such as the container that is this node, or what cgroupRoot of kubelet names.
    return own[: len(around)] == around or around == ("kubelet",)


def _ends_with(path: Sequence[str], end: Sequence[str]) -> bool:
    return not end or tuple(path[-len(end) :]) == tuple(end)
