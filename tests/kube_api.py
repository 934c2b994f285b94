"""A real API server of Kubernetes with etcd, on loopback, and its administrator's client to prepare it with.

No kubelet and no controller runs: nodes, pods and their states are what tests write.
"""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.ports import free_port

ISSUER: Final = "https://kubernetes.default.svc"
_PATIENCE: Final = 60.0
_ADMINISTRATOR: Final = "administrator-of-the-test"
_BUILD: Final = Path(__file__).parent / "kube_apiserver" / "build.sh"


def missing() -> str:
    """What the API server needs and is not there, in a line for people; empty where all is."""
    if shutil.which("etcd") is None:
        return "no etcd on the PATH (Debian: etcd-server)"
    if _binary() is None:
        return "no kube-apiserver in the cache: `make test-kubernetes` builds it"
    return ""


def _binary() -> Path | None:
    found = subprocess.run([_BUILD, "--find"], capture_output=True, text=True, check=False)
    return Path(found.stdout.strip()) if found.returncode == 0 else None


@dataclass
class KubernetesServer:
    """An API server that can be stopped and started again with what it holds. `admin` may do everything."""

    folder: Path
    port: int
    etcd_port: int
    extra: Sequence[str] = ()
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def ca_file(self) -> Path:
        return self.folder / "certs" / "apiserver.crt"

    @property
    def admin(self) -> httpx.Client:
        return self.client(_ADMINISTRATOR)

    def client(self, token: str) -> httpx.Client:
        """Plain HTTP to this server, as whose token it is."""
        return httpx.Client(
            base_url=self.address,
            verify=ssl.create_default_context(cafile=self.ca_file),
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
            timeout=30,
        )

    def start(self) -> None:
        """Start etcd and the API server, and wait until it is ready."""
        self.start_etcd()
        self.start_api()

    def start_etcd(self) -> None:
        client, peer = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{free_port()}"
        self._run(
            "etcd",
            ["etcd", "--data-dir", str(self.folder / "etcd"), "--unsafe-no-fsync", "--log-level", "error"],
            ["--listen-client-urls", client, "--advertise-client-urls", client],
            ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer],
            ["--initial-cluster", f"default={peer}"],
        )

    def start_api(self) -> None:
        """Start the API server alone, and wait until it is ready."""
        binary = _binary()
        if binary is None:
            raise RuntimeError(missing())
        self._run(
            "kube-apiserver",
            [str(binary), "--bind-address=127.0.0.1", f"--secure-port={self.port}"],
            [f"--etcd-servers=http://127.0.0.1:{self.etcd_port}", f"--cert-dir={self.folder / 'certs'}"],
            [f"--service-account-issuer={ISSUER}", f"--service-account-key-file={self.folder / 'sa.key'}"],
            [f"--service-account-signing-key-file={self.folder / 'sa.key'}"],
            [f"--token-auth-file={self.folder / 'tokens.csv'}", "--authorization-mode=Node,RBAC"],
            ["--service-cluster-ip-range=10.0.0.0/16", "--enable-admission-plugins=NodeRestriction"],
            ["--anonymous-auth=true", "--profiling=false", "--allow-privileged=true", *self.extra],
        )
        self._until_ready()

    def stop_api(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End the API server, and leave etcd."""
        self._end(self.processes.pop(), how)

    def stop(self) -> None:
        while self.processes:
            self._end(self.processes.pop(), signal.SIGKILL)

    def kubeconfig(self, path: Path, token: str = _ADMINISTRATOR, *, address: str = "") -> Path:
        """A kubeconfig for who has this token, written to `path`; `address` is for a way through something else."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [
                {
                    "name": "test",
                    "cluster": {"server": address or self.address, "certificate-authority": str(self.ca_file)},
                }
            ],
            "users": [{"name": "test", "user": {"token": token}}],
        }
        path.write_text(yaml.safe_dump(config))
        path.chmod(0o600)
        return path

    def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object in the collection at `path`."""
        with self.admin as client:
            return _answer(client.post(path, json=dict(body)))

    def get(self, path: str) -> dict[str, Any]:
        with self.admin as client:
            return _answer(client.get(path))

    def delete(self, path: str) -> None:
        with self.admin as client:
            _answer(client.delete(path, params={"gracePeriodSeconds": "0"}))

    def patch(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A merge patch."""
        with self.admin as client:
            headers = {"Content-Type": "application/merge-patch+json"}
            return _answer(client.patch(path, json=dict(body), headers=headers))

    def namespace(self, name: str) -> None:
        self.create("/api/v1/namespaces", {"metadata": {"name": name}})

    def account(self, namespace: str, name: str) -> None:
        self.create(f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}})

    def node(self, name: str) -> dict[str, Any]:
        return self.create("/api/v1/nodes", {"metadata": {"name": name}})

    def pod(
        self, namespace: str, name: str, *, account: str = "default", node: str = "", **metadata: Any
    ) -> dict[str, Any]:
        """A pod with one container, bound to `node` where that is given; the service account must be there."""
        spec = {"serviceAccountName": account, "containers": [{"name": "main", "image": "example.org/main:1"}]}
        body = {"metadata": {"name": name, **metadata}, "spec": {**spec, **({"nodeName": node} if node else {})}}
        return self.create(f"/api/v1/namespaces/{namespace}/pods", body)

    def token(
        self, namespace: str, account: str, *, audience: str, pod: Mapping[str, Any] | None = None, seconds: int = 3600
    ) -> str:
        """A projected token, as kubelet asks for one; bound to `pod` where that is given."""
        spec: dict[str, Any] = {"audiences": [audience], "expirationSeconds": seconds}
        if pod is not None:
            meta = pod["metadata"]
            spec["boundObjectRef"] = {"kind": "Pod", "apiVersion": "v1", "name": meta["name"], "uid": meta["uid"]}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        return str(self.create(path, {"spec": spec})["status"]["token"])

    def _run(self, name: str, *parts: Sequence[str]) -> None:
        command = [word for part in parts for word in part]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))

    def _until_ready(self) -> None:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            if self.processes[-1].poll() is not None:
                raise RuntimeError(f"kube-apiserver ended: {self.folder / 'kube-apiserver.log'}")
            try:
                with self.admin as client:
                    if client.get("/readyz").text == "ok":
                        return
            except (OSError, httpx.HTTPError):
                pass
            time.sleep(0.05)
        raise TimeoutError("kube-apiserver is not ready")

    def _end(self, process: subprocess.Popen[bytes], how: signal.Signals) -> None:
        process.send_signal(how)
        process.wait()


def _answer(response: httpx.Response) -> dict[str, Any]:
    if response.is_error:
        raise RuntimeError(f"{response.request.method} {response.request.url.path}: {response.text}")
    return dict(response.json())


@contextmanager
def running_kubernetes(folder: Path, *extra: str) -> Iterator[KubernetesServer]:
    """An API server with a state of its own in `folder`; `extra` are more of its flags."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    descriptor = os.open(folder / "sa.key", os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    (folder / "tokens.csv").write_text(f"{_ADMINISTRATOR},admin,admin,system:masters\n")
    server = KubernetesServer(folder=folder, port=free_port(), etcd_port=free_port(), extra=extra)
    try:
        server.start()
        yield server
    finally:
        server.stop()
