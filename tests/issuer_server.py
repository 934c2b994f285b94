"""A server on loopback that answers as an issuer does, or as none should."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def says(body: bytes = b"{}", *, status: str = "200 OK", headers: Mapping[str, str] | None = None) -> Answer:
    """A whole answer."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        lines = {"content-length": str(len(body)), **(headers or {})}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        writer.write(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body)
        await writer.drain()

    return answer


def leads_to(location: str, status: str = "302 Found") -> Answer:
    """A redirect."""
    return says(b"", status=status, headers={"location": location})


def drips(every: float) -> Answer:
    """An answer that always goes on, and never ends."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(every)

    return answer


async def keeps_silent(_: asyncio.StreamWriter) -> None:
    """No answer at all."""
    await asyncio.Event().wait()


@dataclass(frozen=True)
class Asked:
    """One request: the name in TLS, the header Host, the path, and all headers."""

    name: str
    host: str
    path: str
    headers: Mapping[str, str]


@dataclass
class IssuerServer:
    """What it answers by path, and what it was asked."""

    port: int = 0
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    _names: list[str] = field(default_factory=list)
    _serving: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def paths(self) -> list[str]:
        return [each.path for each in self.asked]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            path = first.split(" ")[1]
            self.asked.append(Asked(self._names[-1] if self._names else "", headers["host"], path, headers))
            await self.answers.get(path, says(status="404 Not Found"))(writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client had enough
        finally:
            self._serving.discard(task)
            writer.close()

    def notice_names(self, tls: ssl.SSLContext) -> None:
        tls.sni_callback = lambda _socket, name, _context: self._names.append(name or "")

    async def stop(self) -> None:
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)


@asynccontextmanager
async def issuer_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[IssuerServer]:
    """One on a free port of 127.0.0.1."""
    issuer = IssuerServer()
    if tls is not None:
        issuer.notice_names(tls)
    server = await asyncio.start_server(issuer.serve, "127.0.0.1", 0, ssl=tls)
    issuer.port = server.sockets[0].getsockname()[1]
    try:
        yield issuer
    finally:
        server.close()
        await issuer.stop()
