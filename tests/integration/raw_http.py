"""HTTP/1.1 written by hand over mutual TLS: requests that no library would send."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509

from citadel.spiffe import SpiffeId
from sds.keep.keys import new_key, to_pem
from tests.unit.sds.fake_authority import FakeAuthority, to_pem_chain
from tests.unit.sds.fake_server import HOUR, now


@dataclass(frozen=True)
class Reply:
    """What came back; a body that is JSON is what the workload says."""

    status: int
    headers: dict[str, str]
    body: bytes
    seen: dict[str, Any] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """Why the agent refused it."""
        return self.headers.get("x-citadel-reason", "")

    def header(self, name: str) -> list[str]:
        """The values of a header as the workload got it."""
        return [value for key, value in self.seen["headers"] if key == name]


@dataclass
class RawCaller:
    """One connection of a caller with a certificate."""

    serial: int
    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter

    async def get(self, target: str | bytes, *headers: str | bytes, method: str = "GET") -> Reply:
        """Send it as it is, with each of these lines, and read the reply. Raises `OSError` where none comes."""
        lines = [f"{method} ".encode() + _bytes(target) + b" HTTP/1.1", b"host: reviews.test", *map(_bytes, headers)]
        self._writer.write(b"\r\n".join(lines) + b"\r\n\r\n")
        await self._writer.drain()
        async with asyncio.timeout(10):
            return await self._reply()

    async def is_ended(self) -> bool:
        """Whether the other side ends the connection, as it says that it does."""
        async with asyncio.timeout(10):
            return await self._reader.read() == b""

    async def _reply(self) -> Reply:
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("the connection was closed") from error
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        status = int(head[0].split()[1])
        is_json = headers.get("content-type") == "application/json"
        return Reply(status, headers, body, json.loads(body) if is_json else {})


@asynccontextmanager
async def raw_caller(
    authority: FakeAuthority, spiffe_id: SpiffeId, port: int, folder: Path
) -> AsyncIterator[RawCaller]:
    """Connect with a new certificate for `spiffe_id`."""
    key = new_key("ec-p256")
    chain = authority.issue(spiffe_id, key, now(), HOUR)
    pem = folder / f"{x509.load_der_x509_certificate(chain[0]).serial_number:x}.pem"
    pem.write_bytes(to_pem(key) + to_pem_chain(chain))
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # whom it calls is not what is tested
    context.load_cert_chain(pem)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, limit=2**22)
    try:
        yield RawCaller(x509.load_der_x509_certificate(chain[0]).serial_number, reader, writer)
    finally:
        writer.close()


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")
