"""Nodes of a cluster with agents in processes of their own, and pods there that start at once."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import yaml

from citadel.config.types import HostPort
from tests.bench.machine import Cores, resident_bytes
from tests.bench.processes import server_process, spawned, until_ready
from tests.bench.report import Row
from tests.kube_api import KubernetesServer
from tests.kube_cgroups import ANOTHER, CONTAINER, OTHER, sliced, v2, write
from tests.ports import free_port
from tests.servers import Server

NAMESPACE: Final = "bench"
_AT_ONCE: Final = 1_000
_AT_REST: Final = 250


@dataclass(frozen=True, slots=True)
class Nodes:
    """What agents and pods are made with. `log` is the API server's audit log."""

    api: KubernetesServer
    log: Path
    kubeconfig: Path
    folder: Path
    cores: Cores


def settings_of(kubeconfig: Path, **sections: Any) -> dict[str, Any]:
    """The server's section `kubernetes`, with one cluster."""
    return {"kubernetes": {"clusters": [{"name": "main", "api": {"kubeconfig": str(kubeconfig)}, **sections}]}}


async def in_threads(work: Callable[[int], Any], numbers: Sequence[int]) -> list[Any]:
    """Prepare many things in the API server, some at a time."""
    turn = asyncio.Semaphore(8)

    async def one(number: int) -> Any:
        async with turn:
            return await asyncio.to_thread(work, number)

    return await asyncio.gather(*map(one, numbers))


async def pods_at_once(nodes: Nodes) -> list[Row]:
    """A thousand on one node, and what another agent takes for 250."""
    sections = {"joining": {"service_accounts": [f"{NAMESPACE}/agent"]}, "workloads": {}}
    settings = settings_of(nodes.kubeconfig, **sections)
    # What one agent may ask for is the product's own default here.
    served = server_process(nodes.folder / "pods", nodes.cores, **settings, limits={"joins_per_second": 10_000})
    async with served as (server, _):
        async with _agent(nodes, server, "resting") as (agent, pid):
            resident, _ = await _started(nodes, agent, pid, "resting", _AT_REST)
        before = _calls(nodes.log)
        async with _agent(nodes, server, "full") as (agent, pid):
            _, waited = await _started(nodes, agent, pid, "full", _AT_ONCE)
            calls = _calls(nodes.log) - before
    asked = sum(calls.values())
    shown = ", ".join(f"{what} {number}" for what, number in sorted(calls.items())) or "none"
    return [
        Row(
            what=f"{_AT_ONCE:,} pods start at once on one node: the last has its identity",
            value=max(waited),
            unit="s",
            goal=5,
            at_most=True,
            note=f"from when their cgroups are there, just after they were made; the middle one {median(waited):.2f} s",
        ),
        Row(
            what="calls to the API server for it, with those of the agent's own start",
            value=asked,
            unit="calls",
            goal=10,
            at_most=True,
            note=shown,
        ),
        Row(
            what=f"agent with {_AT_REST} pods, each with a certificate on an open stream: resident memory",
            value=resident / 2**20,
            unit="MB",
            goal=120,
            at_most=True,
            note="VmRSS once the last of them has its identity, each on a connection of its own (Workload API)",
        ),
    ]


@asynccontextmanager
async def _agent(nodes: Nodes, server: Server, node: str) -> AsyncIterator[tuple[Path, int]]:
    """An agent that joined by the token of its pod, with a made-up process table; its folder and pid."""
    folder = nodes.folder / node
    folder.mkdir(mode=0o700)
    await asyncio.to_thread(_install, nodes, node)
    (folder / "bundle.json").write_bytes(server.published)
    write(folder / "proc", "self", v2(f"{sliced(OTHER)}/cri-containerd-{ANOTHER}.scope"))
    probes = HostPort("127.0.0.1", free_port())
    settings = {
        "trust_domain": "a.test",
        "data_dir": str(folder / "data"),
        "socket": str(folder / "agent.sock"),
        "admin_socket": str(folder / "admin.sock"),
        "probes": str(probes),
        "join": {
            "servers": [str(server.settings.listen.bootstrap)],
            "bundle_file": str(folder / "bundle.json"),
            "k8s_psat": {"cluster": "main", "token_file": str(folder / "token")},
        },
        "kubernetes": {"api": {"kubeconfig": str(nodes.kubeconfig)}},
        "log": {"level": "warning"},
    }
    (config := folder / "agent.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "tests.bench.kube_agent", str(folder / "proc"), str(config)]
    environment = ["env", f"NODE_NAME={node}"]
    async with spawned([*environment, *command], core=nodes.cores.load, log=folder / "agent.log") as child:
        await until_ready(probes)
        yield folder, child.pid


def _install(nodes: Nodes, node: str) -> None:
    nodes.api.node(node)
    pod = nodes.api.pod(NAMESPACE, f"agent-{node}", account="agent", node=node)
    token = nodes.api.token(NAMESPACE, "agent", audience="citadel", pod=pod)
    (nodes.folder / node / "token").write_text(token)


async def _started(nodes: Nodes, agent: Path, pid: int, node: str, number: int) -> tuple[int, Sequence[float]]:
    """So many pods, from nothing to identities: the memory of the agent, and the seconds that each waited."""
    caller = [sys.executable, "-m", "tests.bench.kube_callers", str(number), str(agent / "agent.sock")]
    callers = await asyncio.create_subprocess_exec(
        *caller, stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=1 << 20
    )
    assert callers.stdin is not None
    assert callers.stdout is not None
    try:
        pids = json.loads(await callers.stdout.readline())
        made = await in_threads(
            lambda each: nodes.api.pod(NAMESPACE, f"{node}-{each}", account="web", node=node), range(number)
        )
        for caller_pid, pod in zip(pids, made, strict=True):
            write(agent / "proc", caller_pid, v2(f"{sliced(pod['metadata']['uid'])}/cri-containerd-{CONTAINER}.scope"))
        callers.stdin.write(b"go\n")
        waited = json.loads(await callers.stdout.readline())
        if refused := sum(each < 0 for each in waited):
            raise AssertionError(f"{refused} of {number} callers were refused")
        return resident_bytes(pid), waited
    finally:
        callers.stdin.close()
        await callers.wait()


def _calls(log: Path) -> Counter[str]:
    """What the API server was asked but to be prepared, by verb and resource; its own calls to itself are none."""
    events = (json.loads(line) for line in log.read_text().splitlines())
    return Counter(
        f"{each['verb']} {each['objectRef']['resource']}"
        for each in events
        if "objectRef" in each
        and (each["verb"] == "watch") == (each["stage"] == "ResponseStarted")  # a watch may last longer than this
        and not each["user"]["username"].startswith("system:")
        and not each.get("userAgent", "").startswith("python-httpx")
    )
