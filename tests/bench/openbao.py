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
from itertools import cycle
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.bench.load import Ask
from tests.bench.machine import Cores, confine
from tests.csrs import csr
from tests.openbao import OpenBao, running_openbao


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


@dataclass(frozen=True)
class Peer:
    """A running server, unsealed, with `pki/sign/bench` to ask."""

    bao: OpenBao
    tls: ssl.SSLContext

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self.bao.process is not None
        return self.bao.process.pid

    async def connect(self) -> Connection:
        return Connection(*await asyncio.open_connection("127.0.0.1", self.bao.port, ssl=self.tls))

    def request(self, method: str, path: str, body: dict[str, Any]) -> bytes:
        """A whole HTTP request."""
        content = json.dumps(body).encode()
        token = f"X-Vault-Token: {self.bao.root.token}"
        head = f"{method} /v1/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{token}\r\nContent-Length: {len(content)}\r\n\r\n"
        return head.encode() + content

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


def _signing_requests(peer: Peer) -> Sequence[bytes]:
    return [
        peer.request("POST", "pki/sign/bench", {"csr": _pem(csr()), "common_name": "w.a.test", "ttl": "1h"})
        for _ in range(500)
    ]


def _pem(der: bytes) -> str:
    return x509.load_der_x509_csr(der).public_bytes(Encoding.PEM).decode()


@asynccontextmanager
async def openbao(folder: Path, cores: Cores) -> AsyncIterator[Peer]:
    """An OpenBao on the server's core until the block ends."""
    async with running_openbao(folder) as bao:
        peer = Peer(bao, ssl.create_default_context(cafile=str(bao.ca_file)))
        confine(peer.pid, {cores.server})
        bao.pki("pki")
        role = {"allow_any_name": True, "key_type": "ec", "key_bits": 256, "no_store": False, "generate_lease": False}
        bao.write("pki/roles/bench", **role)
        yield peer
