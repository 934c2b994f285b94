"""HTTP that goes only where it may: names are resolved once, judged, and the judged address is what is connected to.

A second look at DNS, as any other client takes when it connects, could get another answer (DNS rebinding).
"""

from __future__ import annotations

import ssl
from typing import Final

import httpx

from citadel.web.addresses import Resolve, judged_addresses

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
# No connection is kept: it would be found again by its address, for another name that leads there.
_LIMITS: Final = httpx.Limits(max_connections=1, max_keepalive_connections=0)


class GuardedTransport(httpx.AsyncBaseTransport):
    """A transport of httpx that raises `Unavailable` (`address_refused`) for what may not be reached."""

    def __init__(self, *, resolve: Resolve, tls: ssl.SSLContext, allow_private: bool) -> None:
        self._resolve = resolve
        self._allow_private = allow_private
        self._inner = httpx.AsyncHTTPTransport(verify=tls, trust_env=False, limits=_LIMITS)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.raw_host.decode("ascii")
        port = request.url.port or _DEFAULT_PORTS[request.url.scheme]
        addresses = await judged_addresses(
            self._resolve,
            host,
            port,
            allow_private=self._allow_private,
            in_plain_text=request.url.scheme == "http",
        )
        failure: httpx.TransportError
        for address in addresses:
            try:
                return await self._inner.handle_async_request(_pinned(request, host, address))
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
        raise failure

    async def aclose(self) -> None:
        await self._inner.aclose()


def _pinned(request: httpx.Request, host: str, address: str) -> httpx.Request:
    """The same request to an address; TLS goes on asking for the name, and so does the header Host."""
    return httpx.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": host},
    )
