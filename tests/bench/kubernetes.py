"""Kubernetes with a real API server: pods that start at once, ConfigMaps by the thousand."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

import yaml

from citadel._wire import rotation_pb2
from tests.bench.effort import Effort
from tests.bench.kube_nodes import NAMESPACE, Nodes, in_threads, pods_at_once, settings_of
from tests.bench.machine import Cores
from tests.bench.processes import server_process
from tests.bench.report import Row
from tests.kube_api import KubernetesServer, running_kubernetes

_PATIENCE: Final = 120.0
_NAMESPACES: Final = 1_000
_MAPS: Final = ("citadel-bundle", "istio-ca-root-cert")
_AUDIT: Final = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


async def kubernetes(folder: Path, cores: Cores, _effort: Effort) -> list[Row]:
    """Everything but Istio's proxies that is promised of clusters of Kubernetes."""
    folder.mkdir(parents=True)
    (policy := folder / "policy.yaml").write_text(yaml.safe_dump(_AUDIT))
    log = folder / "audit.log"
    with running_kubernetes(folder, f"--audit-policy-file={policy}", f"--audit-log-path={log}") as api:
        api.namespace(NAMESPACE)
        api.account(NAMESPACE, "web")
        api.account(NAMESPACE, "agent")
        kubeconfig = api.kubeconfig(folder / "kubeconfig")
        return [
            *await pods_at_once(Nodes(api, log, kubeconfig, folder, cores)),
            *await _config_maps(api, kubeconfig, folder / "bundles", cores),
        ]


async def _config_maps(api: KubernetesServer, kubeconfig: Path, folder: Path, cores: Cores) -> list[Row]:
    """Two of them in each namespace, at the default rate, while a new root is trusted."""

    def make(number: int) -> None:
        api.namespace(f"many-{number}")

    await in_threads(make, range(_NAMESPACES))
    maps = [{"name": name, "key": "roots.pem", "namespaces": {"include": ["many-*"]}} for name in _MAPS]
    async with server_process(folder, cores, **settings_of(kubeconfig, bundles={"config_maps": maps})) as (server, _):
        made = await _until_all_have(api, roots=1)
        await server.rotations().StartRotation(rotation_pb2.StartRotationRequest(kind="root", why="bench"))
        changed = await _until_all_have(api, roots=2)
    return [
        Row(
            what=f"{len(_MAPS) * _NAMESPACES:,} ConfigMaps in {_NAMESPACES:,} namespaces have a new root",
            value=changed,
            unit="s",
            goal=30,
            at_most=True,
            note=f"at 100 writes a second, the default; made in {made:.1f} s",
        )
    ]


async def _until_all_have(api: KubernetesServer, *, roots: int) -> float:
    """Seconds until each has so many."""
    begun = time.perf_counter()
    async with asyncio.timeout(_PATIENCE):
        for name in _MAPS:
            while await asyncio.to_thread(_having, api, name, roots) < _NAMESPACES:
                await asyncio.sleep(0.2)
    return time.perf_counter() - begun


def _having(api: KubernetesServer, name: str, roots: int) -> int:
    with api.admin as client:
        found = client.get("/api/v1/configmaps", params={"fieldSelector": f"metadata.name={name}"}).json()["items"]
    return sum(str(each["data"]).count("BEGIN") == roots for each in found)
