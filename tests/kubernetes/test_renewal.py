"""The authority of a real API server is replaced while a server works in its cluster."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import yaml

from citadel._wire import admin_pb2
from tests.kube_api import KubernetesServer, running_kubernetes
from tests.kubernetes.test_server import cluster, until
from tests.servers import http_status, running_server, server_settings


def kubeconfig(kubernetes: KubernetesServer, folder: Path) -> Path:
    """One that names a copy of the authority."""
    path, copy = kubernetes.kubeconfig(folder / "kubeconfig"), folder / "ca.pem"
    copy.write_bytes(kubernetes.ca_file.read_bytes())
    config = yaml.safe_load(path.read_text())
    config["clusters"][0]["cluster"]["certificate-authority"] = str(copy)
    path.write_text(yaml.safe_dump(config))
    return path


async def test_a_server_goes_on_under_another_authority_without_a_restart(tmp_path: Path) -> None:
    (tmp_path / "kubernetes").mkdir()
    with running_kubernetes(tmp_path / "kubernetes") as kubernetes:
        kubernetes.namespace("shop")
        kubernetes.account("shop", "default")
        settings = server_settings(
            tmp_path, kubernetes=cluster(kubeconfig(kubernetes, tmp_path), workloads={}, bundles={})
        )
        async with running_server(settings) as server:
            await until(server, lambda status: status.good and status.pods_known)
            await asyncio.to_thread(kubernetes.stop_api)
            shutil.rmtree(kubernetes.folder / "certs")
            await asyncio.to_thread(kubernetes.start_api)
            await until(server, lambda status: status.reason == "kubernetes_untrusted")

            assert (await http_status(settings.listen.probes, "/ready"))[0] == 200
            (tmp_path / "ca.pem").write_bytes(kubernetes.ca_file.read_bytes())
            await until(server, lambda status: status.good)
            kubernetes.pod("shop", "web", node="n1")
            await until(server, _has_an_entry)


def _has_an_entry(status: admin_pb2.KubernetesStatus) -> bool:
    return status.good and status.workloads.entries == 1
