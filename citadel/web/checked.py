"""One request on one connection, whose other end is checked before anything is asked.

httpx has no room for that between its handshake and its request, and costs twice as much, which counts where a hundred
servers are asked every minute.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import h11
import httpx

from citadel.web.addresses import Resolve, judged_addresses
from citadel.web.asking import HEADERS

_HTTPS: Final = 443
_PIECE: Final = 64 * 1024

Check = Callable[[ssl.SSLObject], None]


@dataclass(frozen=True, slots=True)
class CheckedResponse:
    """Fulfils `citadel.web.asking.Response`."""

    status_code: int
    headers: Mapping[str, str]
    _connection: h11.Connection
    _reader: asyncio.StreamReader

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        while not isinstance(event := await _next_event(self._connection, self._reader), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                yield bytes(event.data)


class CheckedConnections:
    """Asks over TLS, in one's own network too. `check` raises for another end that is not the right one."""

    def __init__(self, *, resolve: Resolve, tls: ssl.SSLContext, check: Check | None = None) -> None:
        self._resolve = resolve
        self._tls = tls
        self._check = check

    @asynccontextmanager
    async def open(self, url: httpx.URL) -> AsyncIterator[CheckedResponse]:
        """The answer's head, and its body as it comes. Raises `httpx.HTTPError`, and what `check` raises."""
        reader, writer = await self._connect(url)
        try:
            if self._check is not None:
                self._check(writer.get_extra_info("ssl_object"))
            connection = h11.Connection(h11.CLIENT)
            writer.write(_request(connection, url))
            event = await _next_event(connection, reader)
            while isinstance(event, h11.InformationalResponse):
                event = await _next_event(connection, reader)
            if not isinstance(event, h11.Response):
                raise httpx.RemoteProtocolError("the answer has no head")
            headers = {name.decode("ascii"): value.decode("latin-1") for name, value in event.headers}
            yield CheckedResponse(event.status_code, headers, connection, reader)
        except h11.ProtocolError as error:
            raise httpx.RemoteProtocolError(str(error)) from error
        except OSError as error:
            raise httpx.ReadError(str(error)) from error
        finally:
            writer.transport.abort()

    async def _connect(self, url: httpx.URL) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = url.raw_host.decode("ascii"), url.port or _HTTPS
        failure: Exception = OSError("there is no address")
        for address in await judged_addresses(self._resolve, host, port, allow_private=True):
            try:
                return await asyncio.open_connection(address, port, ssl=self._tls, server_hostname=host)
            except (OSError, ValueError) as error:  # ssl.SSLError is one; a name can be none for TLS
                failure = error
        raise httpx.ConnectError(str(failure)) from failure


def _request(connection: h11.Connection, url: httpx.URL) -> bytes:
    headers = [("host", url.netloc.decode("ascii")), ("connection", "close"), *HEADERS.items()]
    head = connection.send(h11.Request(method="GET", target=url.raw_path, headers=headers))
    return (head or b"") + (connection.send(h11.EndOfMessage()) or b"")


async def _next_event(connection: h11.Connection, reader: asyncio.StreamReader) -> object:
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await reader.read(_PIECE))
    return event
