"""An API server that answers what a script says: for answers that no real one gives when a test needs them."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import yaml
from cryptography import x509

from tests.strangers import WebCa, put

HOLD: Final = b""  # keep the connection open, without a further word
_NEXT: Final = b"\0"  # the response is whole: keep the connection for the next request, as API servers do


@dataclass
class ScriptedApi:
    """Each request is answered by the next of `answers`, or by `last` when they have run out.

    An answer is the parts of a raw response. `requests` are kept, head and all.
    """

    folder: Path
    ca: WebCa = field(default_factory=WebCa)
    answers: list[list[bytes]] = field(default_factory=list)
    last: list[bytes] = field(default_factory=lambda: answer(404, {"message": "not found"}))
    requests: list[str] = field(default_factory=list)
    port: int = 0
    context: ssl.SSLContext = field(default_factory=lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))

    @property
    def paths(self) -> list[str]:
        """What was asked for, in order."""
        return [request.split(" ")[1] for request in self.requests]

    def show(self, ca: WebCa) -> None:
        """Have a certificate of this authority for every connection from now on."""
        self.ca = ca
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        self.context.load_cert_chain(*put(self.folder, ca.certificate(names=names)))

    def kubeconfig(self, *, token: str = "a-token", **cluster: Any) -> Path:  # noqa: S107 - of no use to anybody
        """How to reach it; what is given of `cluster` takes the place of what is right."""
        (self.folder / "ca.pem").write_bytes(self.ca.pem)
        right = {"server": f"https://127.0.0.1:{self.port}", "certificate-authority": str(self.folder / "ca.pem")}
        its = {name: value for name, value in {**right, **cluster}.items() if value is not None}
        path = self.folder / "kubeconfig"
        path.write_text(
            yaml.safe_dump(
                {
                    "current-context": "test",
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                    "clusters": [{"name": "test", "cluster": its}],
                    "users": [{"name": "test", "user": {"token": token}}],
                }
            )
        )
        return path

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
                for part in self.answers.pop(0) if self.answers else self.last:
                    if part == HOLD:
                        await asyncio.Event().wait()
                    elif part == _NEXT:
                        break
                    writer.write(part)
                    await writer.drain()
                else:
                    writer.close()
                    return
        except (OSError, asyncio.IncompleteReadError):
            return


@asynccontextmanager
async def scripted_api(folder: Path, *answers: list[bytes]) -> AsyncIterator[ScriptedApi]:
    api = ScriptedApi(folder, answers=list(answers))
    api.show(api.ca)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(api.serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=api.context)
    api.port = server.sockets[0].getsockname()[1]
    try:
        yield api
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def answer(code: int, body: object, **headers: str) -> list[bytes]:
    """A whole response with JSON."""
    text = json.dumps(body).encode()
    return [_head(code, {"Content-Length": str(len(text)), **headers}) + text, _NEXT]


def watch(*lines: object, then: bytes | None = HOLD) -> list[bytes]:
    """A response of a watch: its lines, JSON unless they are raw; it stays open unless `then` says otherwise."""
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    return [_head(200, {"Connection": "close"}), *(line + b"\n" for line in raw), *([then] if then is not None else [])]


def _head(code: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {code} Whatever", "Content-Type: application/json", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def event(kind: str, name: str, version: int, **data: str) -> dict[str, Any]:
    """One line of a watch."""
    return {"type": kind, "object": thing(name, version, **data)}


def thing(name: str, version: int, **data: str) -> dict[str, Any]:
    return {"metadata": {"namespace": "shop", "name": name, "resourceVersion": str(version)}, "data": data}
