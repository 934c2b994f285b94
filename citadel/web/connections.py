"""HTTP that goes only where it may: names are resolved once, judged, and the judged addresses are what is connected to.

A second look at DNS, as any other client takes when it connects, could get another answer (DNS rebinding). Over TLS the
other end is checked between handshake and request, which httpcore has room for beneath it and httpx has not.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpcore
import httpx

from citadel.web.addresses import Resolve, judged_addresses

# Nothing packed: a small answer could unpack to anything.
_HEADERS: Final = (
    # Key sets have a type of their own (RFC 7517 section 8.5.1), and an API server of Kubernetes answers with no other.
    ("accept", "application/json, application/jwk-set+json"),
    ("accept-encoding", "identity"),
    ("connection", "close"),
    ("user-agent", "citadel"),
)

_CONNECT_SECONDS: Final = 3.0  # for each address, and as long for its handshake: a silent one hides no other
# What the other end may say until its answer has begun, and in all: heads that say "wait" can come without end, and so
# can a body in chunks of nothing.
_MOST_BEFORE: Final = 128 * 1024
_MOST_IN_ALL: Final = 16 * 1024 * 1024
_PIECE: Final = 8 * 1024  # some hundred heads or chunks at worst, after which the loop has its turn

# Raises for another end that is not the right one.
Check = Callable[[ssl.SSLObject], Awaitable[None]]


class GuardedConnections:
    """Fulfils `citadel.web.asking.Open`, by a connection of its own for each request."""

    def __init__(
        self,
        *,
        resolve: Resolve,
        tls: ssl.SSLContext,
        allow_private: bool,
        check: Check | None = None,
        connect_seconds: float = _CONNECT_SECONDS,
    ) -> None:
        """Each address has `connect_seconds` to answer, and as long again for its handshake."""
        self._resolve = resolve
        self._tls = tls
        self._allow_private = allow_private
        self._check = check
        self._connect_seconds = connect_seconds

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
        allowance = _Allowance(_MOST_BEFORE)
        connection = httpcore.AsyncHTTPConnection(
            asked.origin,
            ssl_context=self._tls,
            retries=len(addresses) - 1,
            network_backend=_ToAddresses(
                addresses,
                may_be_plain=url.scheme == "http" and self._check is None,
                check=self._check,
                allowance=allowance,
            ),
        )
        headers: list[tuple[bytes | str, bytes | str]] = [("host", url.netloc), *_HEADERS]
        patience = {"timeout": {"connect": self._connect_seconds}}
        async with connection, connection.stream("GET", asked, headers=headers, extensions=patience) as response:
            allowance.left = _MOST_IN_ALL
            yield response


@dataclass(slots=True)
class _Allowance:
    """How many bytes may still come."""

    left: int


class _ToAddresses(httpcore.AsyncNetworkBackend):
    """Each attempt to connect goes to the next of these addresses, whatever the name."""

    def __init__(
        self, addresses: Sequence[str], *, may_be_plain: bool, check: Check | None, allowance: _Allowance
    ) -> None:
        self._left = iter(addresses)
        self._may_be_plain = may_be_plain
        self._check = check
        self._allowance = allowance
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
        if self._may_be_plain:
            return _Limited(plain, self._allowance)
        return _Unsecured(plain, self._check, self._allowance)

    async def sleep(self, seconds: float) -> None:
        """The next address is tried at once."""


class _Unsecured(httpcore.AsyncNetworkStream):
    """A connection on which nothing can be said before TLS, nor then to another end than the right one."""

    def __init__(self, plain: httpcore.AsyncNetworkStream, check: Check | None, allowance: _Allowance) -> None:
        self._plain = plain
        self._check = check
        self._allowance = allowance

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - as httpcore has it
    ) -> httpcore.AsyncNetworkStream:
        try:
            secured = await self._plain.start_tls(ssl_context, server_hostname, timeout)
            if self._check is not None:
                await self._check(secured.get_extra_info("ssl_object"))
        except BaseException as error:  # also where the time was over
            await self._plain.aclose()
            if isinstance(error, ValueError):  # a name can be none for TLS
                raise httpcore.ConnectError(str(error)) from error
            raise
        return _Limited(secured, self._allowance)

    async def aclose(self) -> None:
        await self._plain.aclose()


class _Limited(httpcore.AsyncNetworkStream):
    """A connection of which no more is read than is allowed, and little at a time."""

    def __init__(self, inner: httpcore.AsyncNetworkStream, allowance: _Allowance) -> None:
        self._inner = inner
        self._allowance = allowance

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - as httpcore has it
        await asyncio.sleep(0)  # what has come already is read without a pause
        data = await self._inner.read(min(max_bytes, _PIECE), timeout)
        self._allowance.left -= len(data)
        if self._allowance.left < 0:
            raise httpcore.RemoteProtocolError("it says more than an answer has")
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as httpcore has it
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
