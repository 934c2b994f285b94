"""Both authorities of a real API server are replaced, its own and its clients', while a server works in its cluster."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Final

import yaml
from cryptography import x509
from cryptography.x509.oid import NameOID

from citadel._wire import admin_pb2
from tests.kube_api import KubernetesServer, running_kubernetes
from tests.kubernetes.test_server import cluster, until
from tests.servers import http_status, running_server, server_settings
from tests.strangers import WebCa, pem_of

_LONGEST: Final = 60  # seconds: an API server that is away is asked again with pauses of up to half a minute
_ADMINISTRATOR: Final = x509.Name(
    [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:masters"),
        x509.NameAttribute(NameOID.COMMON_NAME, "citadel"),
    ]
)


def kubeconfig(kubernetes: KubernetesServer, folder: Path) -> Path:
    """One that names its files: a copy of the API server's authority, and the client's certificate and key."""
    path = kubernetes.kubeconfig(folder / "kubeconfig")
    config = yaml.safe_load(path.read_text())
    config["clusters"][0]["cluster"]["certificate-authority"] = "ca.pem"
    config["users"][0]["user"] = {"client-certificate": "client.pem", "client-key": "client.key"}
    path.write_text(yaml.safe_dump(config))
    return path


def put_certificate(clients: WebCa, folder: Path) -> None:
    certificate = clients.certificate(subject=_ADMINISTRATOR)
    (folder / "client.pem").write_bytes(certificate.pem)
    (folder / "client.key").write_bytes(pem_of(certificate.key))


async def test_a_server_goes_on_under_other_authorities_without_a_restart(tmp_path: Path) -> None:
    (tmp_path / "kubernetes").mkdir()
    its_clients, clients = tmp_path / "clients.pem", WebCa()
    its_clients.write_bytes(clients.pem)
    with running_kubernetes(tmp_path / "kubernetes", f"--client-ca-file={its_clients}") as kubernetes:
        kubernetes.namespace("shop")
        kubernetes.account("shop", "default")
        shutil.copy(kubernetes.ca_file, tmp_path / "ca.pem")
        put_certificate(clients, tmp_path)
        theirs = cluster(kubeconfig(kubernetes, tmp_path), workloads={}, bundles={})
        settings = server_settings(tmp_path, kubernetes=theirs)
        async with running_server(settings) as server:
            await until(server, lambda status: status.good and status.pods_known, seconds=_LONGEST)
            await asyncio.to_thread(kubernetes.stop_api)
            shutil.rmtree(kubernetes.folder / "certs")
            its_clients.write_bytes((others := WebCa()).pem)
            await asyncio.to_thread(kubernetes.start_api)
            await until(server, lambda status: status.reason == "kubernetes_untrusted", seconds=_LONGEST)
            assert (await http_status(settings.listen.probes, "/ready"))[0] == 200
            shutil.copy(kubernetes.ca_file, tmp_path / "ca.pem")
            await until(server, lambda status: status.reason == "kubernetes_login_refused", seconds=_LONGEST)
            put_certificate(others, tmp_path)
            await until(server, lambda status: status.good, seconds=_LONGEST)
            await asyncio.to_thread(kubernetes.pod, "shop", "web", node="n1")
            await until(server, _has_an_entry)


def _has_an_entry(status: admin_pb2.KubernetesStatus) -> bool:
    return status.good and status.workloads.entries == 1
