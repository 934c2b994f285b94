"""HTTP that goes only where it may: names are resolved once, judged, and the judged addresses are what is connected to.

A second look at DNS, as any other client takes when it connects, could get another answer (DNS rebinding). Over TLS the
other end is checked between handshake and request, which httpcore has room for beneath it and httpx has not.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import httpcore
import httpx

from citadel.web.addresses import Resolve, judged_addresses

# Nothing packed: a small answer could unpack to anything.
_HEADERS: Final = (
    ("accept", "application/json"),
    ("accept-encoding", "identity"),
    ("connection", "close"),
    ("user-agent", "citadel"),
)

# Raises for another end that is not the right one.
Check = Callable[[ssl.SSLObject], None]


class GuardedConnections:
    """Fulfils `citadel.web.asking.Open`, by a connection of its own for each request."""

    def __init__(
        self, *, resolve: Resolve, tls: ssl.SSLContext, allow_private: bool, check: Check | None = None
    ) -> None:
        self._resolve = resolve
        self._tls = tls
        self._allow_private = allow_private
        self._check = check

    @asynccontextmanager
    async def open(self, url: httpx.URL) -> AsyncIterator[httpcore.Response]:
        """The answer's head, and its body as it comes.

        Raises what httpcore does, `OSError`, `Unavailable` (`address_refused`), and what the check raises.
        """
        asked = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        addresses = await judged_addresses(
            self._resolve,
            url.raw_host.decode("ascii"),
            asked.origin.port,
            allow_private=self._allow_private,
            in_plain_text=url.scheme == "http",
        )
        connection = httpcore.AsyncHTTPConnection(
            asked.origin,
            ssl_context=self._tls,
            retries=len(addresses) - 1,
            network_backend=_ToAddresses(
                addresses, may_be_plain=url.scheme == "http" and self._check is None, check=self._check
            ),
        )
        async with connection, connection.stream("GET", asked, headers=[("host", url.netloc), *_HEADERS]) as response:
            yield response


class _ToAddresses(httpcore.AsyncNetworkBackend):
    """Each attempt to connect goes to the next of these addresses, whatever the name."""

    def __init__(self, addresses: Sequence[str], *, may_be_plain: bool, check: Check | None) -> None:
        self._left = iter(addresses)
        self._may_be_plain = may_be_plain
        self._check = check
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,  # noqa: ARG002 - it is what led to the addresses
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - as httpcore has it
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        plain = await self._inner.connect_tcp(next(self._left), port, timeout, local_address, socket_options)
        return plain if self._may_be_plain else _Unsecured(plain, self._check)

    async def sleep(self, seconds: float) -> None:
        """The next address is tried at once."""


class _Unsecured(httpcore.AsyncNetworkStream):
    """A connection on which nothing can be said before TLS, nor then to another end than the right one."""

    def __init__(self, plain: httpcore.AsyncNetworkStream, check: Check | None) -> None:
        self._plain = plain
        self._check = check

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - as httpcore has it
    ) -> httpcore.AsyncNetworkStream:
        try:
            secured = await self._plain.start_tls(ssl_context, server_hostname, timeout)
            if self._check is not None:
                self._check(secured.get_extra_info("ssl_object"))
        except BaseException as error:  # also where the time was over
            await self._plain.aclose()
            if isinstance(error, ValueError):  # a name can be none for TLS
                raise httpcore.ConnectError(str(error)) from error
            raise
        return secured

    async def aclose(self) -> None:
        await self._plain.aclose()
