"""`/proc/PID/cgroup` as each runtime and driver makes it, and made-up `/proc` trees with it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

POD: Final = "a2830d0d-b0f0-4ff0-81b5-0ee4e299cf80"
OTHER: Final = "72f7f152-440c-66ac-9084-e0fc1d8a910c"
STATIC: Final = "6f2ab5c8ee0d2c54be8be1fd6a4a07a3"  # of a pod that kubelet runs by itself: no dashes
CONTAINER: Final = "09bc3d7ade839efec32b6bec4ec79d099027a668ddba043083ec21d3c3b8f1e6"
ANOTHER: Final = "9bca8d63d5fa610783847915bcff0ecac1273e5b4bed3f6fa1b07350e0135961"
NODE: Final = "93529524695bb00d91c1f6dba692ea8d3550c3b94fb2463af7bc9ec82f992d26"  # a container that is a node

_CONTROLLERS: Final = (
    "name=systemd",
    "pids",
    "hugetlb",
    "net_cls,net_prio",
    "freezer",
    "memory",
    "blkio",
    "cpu,cpuacct",
)


def sliced(uid: str = POD, quality: str = "", above: str = "") -> str:
    """A pod's slice, as the systemd driver nests them; `above` is what cgroupRoot names, such as `kubelet`."""
    name, path = "", ""
    for part in (
        *([above] if above else []),
        "kubepods",
        *([quality] if quality else []),
        f"pod{uid.replace('-', '_')}",
    ):
        name = f"{name}-{part}" if name else part
        path += f"/{name}.slice"
    return path


def plain(uid: str = POD, quality: str = "") -> str:
    """A pod's cgroup, as the cgroupfs driver names it."""
    return f"/kubepods{f'/{quality}' if quality else ''}/pod{uid}"


def v2(path: str) -> str:
    return f"0::{path}\n"


def v1(path: str, *, unified: str = "", **others: str) -> str:
    """Every controller at `path`, but those of `others`; `unified` is where the empty hierarchy of version 2 has it."""
    lines = [f"{number}:{name}:{others.get(name, path)}" for number, name in enumerate(_CONTROLLERS, 1)]
    return "\n".join([*reversed(lines), *([f"0::{unified}"] if unified else [])]) + "\n"


def write(proc: Path, pid: int | str, text: str) -> None:
    """Have a process with these cgroups in a made-up `/proc`."""
    (proc / str(pid)).mkdir(parents=True, exist_ok=True)
    (proc / str(pid) / "cgroup").write_text(text)
