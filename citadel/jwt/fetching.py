"""Keys of issuers over HTTPS, from what may be a stranger: addresses are judged, time and size are limited."""

from __future__ import annotations

import asyncio
import re
import ssl
from datetime import timedelta
from functools import partial
from typing import Final

import httpx

from citadel.errors import CitadelError, InvalidArgument, Reason, Unavailable
from citadel.jwt.guarded_transport import GuardedTransport
from citadel.jwt.jwks import MAX_DOCUMENT_BYTES, KeySet
from citadel.jwt.keys import Answer, KeySource
from citadel.jwt.lookups import LookUp, Lookups, look_up_by_system
from citadel.printable import printable
from citadel.strict_json import load_object

DISCOVERY_PATH: Final = "/.well-known/openid-configuration"
_MOST_REDIRECTS: Final = 3
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MAX_AGE: Final = re.compile(r"max-age=([0-9]{1,9})(?![0-9])")
# Nothing packed: a small answer could unpack to anything.
_HEADERS: Final = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "citadel"}


class HttpKeyFetcher:
    """Fulfils `citadel.jwt.keys.FetchKeys`."""

    def __init__(self, *, look_up: LookUp = look_up_by_system) -> None:
        self._lookups = Lookups(look_up)

    async def __call__(self, source: KeySource) -> Answer:
        seconds = source.timeout.total_seconds()
        try:
            async with asyncio.timeout(seconds):  # httpx's own timeouts begin anew with each piece that arrives
                tls = await asyncio.to_thread(_tls, source)
                resolve = partial(self._lookups.addresses, source)
                transport = GuardedTransport(resolve=resolve, tls=tls, allow_private=source.allow_private)
                async with httpx.AsyncClient(
                    transport=transport, trust_env=False, timeout=seconds, headers=_HEADERS
                ) as client:
                    return await _fetch(client, source)
        except TimeoutError as error:
            raise _unavailable(f"{_shown(httpx.URL(_begin(source)))}: no whole answer within {seconds:g} s") from error
        except httpx.InvalidURL as error:
            raise _unavailable(f"{source.issuer} leads to what is no URL: {error}") from error


async def _fetch(client: httpx.AsyncClient, source: KeySource) -> Answer:
    if source.url:
        response, body = await _get(client, source.url, source)
    else:
        document, url = await _discover(client, source)
        response, body = await _get(client, url, source, before=document)
    keys = await asyncio.to_thread(KeySet.parse, body)
    return Answer(keys=keys, max_age=_max_age(response))


async def _discover(client: httpx.AsyncClient, source: KeySource) -> tuple[httpx.URL, str]:
    """Where the document was in the end, and where it says that the keys are.

    OpenID Connect Discovery 1.0, sections 4.1 to 4.3.
    """
    response, body = await _get(client, _begin(source), source)
    document = load_object(body, max_bytes=MAX_DOCUMENT_BYTES, reason=Reason.JWKS_MALFORMED)
    if document.get("issuer") != source.issuer:
        raise _malformed(f"the discovery document is of another issuer, {document.get('issuer')!r:.200}")
    url = document.get("jwks_uri")
    if not isinstance(url, str):
        raise _malformed("the discovery document has no jwks_uri")
    return response.url, url


async def _get(
    client: httpx.AsyncClient, url: str, source: KeySource, *, before: httpx.URL | None = None
) -> tuple[httpx.Response, bytes]:
    """Follows redirects by hand: each target is judged as the first one was. `before` is what named `url`."""
    target = httpx.URL(url)
    _check_scheme(target, source, before=before)
    for _ in range(_MOST_REDIRECTS + 1):
        try:
            async with client.stream("GET", target) as response:
                if response.status_code not in _REDIRECTS:
                    return response, await _body(response)
                following = target.join(response.headers.get("location", ""))
        except httpx.HTTPError as error:
            raise _unavailable(f"{_shown(target)}: {_plainly(error)}") from error
        _check_scheme(following, source, before=target)
        target = following
    raise _unavailable(f"more than {_MOST_REDIRECTS} redirects")


def _check_scheme(target: httpx.URL, source: KeySource, *, before: httpx.URL | None) -> None:
    """Raise `Unavailable` for what is not HTTPS; HTTP goes where private addresses do, never after HTTPS."""
    may_be_plain = source.allow_private and (before is None or before.scheme == "http")
    if target.scheme == "https" or (target.scheme == "http" and may_be_plain):
        return
    raise _unavailable(f"{printable(str(target), 200)} is not https")


async def _body(response: httpx.Response) -> bytes:
    if response.status_code != 200:
        raise _unavailable(f"{_shown(response.url)} answered {response.status_code}")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise _malformed(f"{response.url.host} packed its answer, which it was asked not to")
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > MAX_DOCUMENT_BYTES:
            raise _malformed(f"the answer of {response.url.host} is longer than {MAX_DOCUMENT_BYTES} bytes")
    return bytes(body)


def _begin(source: KeySource) -> str:
    """The URL that is asked first."""
    return source.url or source.issuer.removesuffix("/") + DISCOVERY_PATH


def _shown(url: httpx.URL) -> str:
    """For people and logs: neither a password nor a query, which may be one."""
    return printable(f"{url.scheme}://{url.netloc.decode('ascii')}{url.path}", 200)


def _plainly(error: httpx.HTTPError) -> str:
    match error:
        case httpx.TimeoutException():
            return "no answer in time"  # it has no words of its own
        case httpx.ConnectError():
            what = "cannot be connected to"
        case httpx.RemoteProtocolError():
            what = "does not answer in good HTTP"
        case httpx.NetworkError():
            what = "the connection broke"
        case _:
            what = "cannot be asked"
    return f"{what}: {error}" if str(error) else what


def _max_age(response: httpx.Response) -> timedelta | None:
    """For how long the answer may be kept, by its sender; None where it does not say (RFC 9111 section 5.2.2)."""
    said = response.headers.get("cache-control", "").lower()
    if "no-store" in said or "no-cache" in said:
        return timedelta(0)
    found = _MAX_AGE.search(said)
    return timedelta(seconds=int(found[1])) if found else None


def _tls(source: KeySource) -> ssl.SSLContext:
    """Read each time: certificates in files change."""
    if source.ca_file is None:
        return httpx.create_ssl_context(trust_env=False)
    try:
        return ssl.create_default_context(cafile=source.ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise _unavailable(f"{source.ca_file} cannot be used: {error}") from error


def _unavailable(message: str) -> CitadelError:
    return Unavailable(Reason.JWKS_UNAVAILABLE, message)


def _malformed(message: str) -> CitadelError:
    return InvalidArgument(Reason.JWKS_MALFORMED, message)
