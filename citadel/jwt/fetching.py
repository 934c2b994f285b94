"""Keys of issuers over HTTPS, from what may be a stranger: addresses are judged, time and size are limited."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import Final

import httpx

from citadel.errors import CitadelError, InvalidArgument, Reason, Unavailable
from citadel.jwt.jwks import MAX_DOCUMENT_BYTES, KeySet
from citadel.jwt.keys import Answer, KeySource
from citadel.printable import printable
from citadel.strict_json import load_object
from citadel.web.asking import AskError, Document, Fault, get, shown
from citadel.web.connections import GuardedConnections
from citadel.web.lookups import LookUp, Lookups, look_up_by_system

DISCOVERY_PATH: Final = "/.well-known/openid-configuration"
_MAX_AGE: Final = re.compile(r"max-age=([0-9]{1,9})(?![0-9])")


class HttpKeyFetcher:
    """Fulfils `citadel.jwt.keys.FetchKeys`."""

    def __init__(self, *, look_up: LookUp = look_up_by_system) -> None:
        self._lookups = Lookups(look_up)

    async def __call__(self, source: KeySource) -> Answer:
        seconds = source.timeout.total_seconds()
        try:
            async with asyncio.timeout(seconds):
                tls = await asyncio.to_thread(_tls, source)
                resolve = partial(self._lookups.addresses, source)
                ask = GuardedConnections(resolve=resolve, tls=tls, allow_private=source.allow_private)
                return await _fetch(ask, source)
        except TimeoutError as error:
            raise _unavailable(f"{shown(httpx.URL(_begin(source)))}: no whole answer within {seconds:g} s") from error
        except httpx.InvalidURL as error:
            raise _unavailable(f"{source.issuer} leads to what is no URL: {error}") from error


async def _fetch(ask: GuardedConnections, source: KeySource) -> Answer:
    if source.url:
        answer = await _get(ask, source.url, source)
    else:
        document, url = await _discover(ask, source)
        answer = await _get(ask, url, source, before=document)
    keys = await asyncio.to_thread(KeySet.parse, answer.body)
    return Answer(keys=keys, max_age=_max_age(answer.headers))


async def _discover(ask: GuardedConnections, source: KeySource) -> tuple[httpx.URL, str]:
    """Where the document was in the end, and where it says that the keys are.

    OpenID Connect Discovery 1.0, sections 4.1 to 4.3.
    """
    answer = await _get(ask, _begin(source), source)
    document = load_object(answer.body, max_bytes=MAX_DOCUMENT_BYTES, reason=Reason.JWKS_MALFORMED)
    if document.get("issuer") != source.issuer:
        raise _malformed(f"the discovery document is of another issuer, {document.get('issuer')!r:.200}")
    url = document.get("jwks_uri")
    if not isinstance(url, str):
        raise _malformed("the discovery document has no jwks_uri")
    return answer.url, url


async def _get(ask: GuardedConnections, url: str, source: KeySource, *, before: httpx.URL | None = None) -> Document:
    try:
        return await get(
            ask.open,
            url,
            judge=partial(_check_scheme, source),
            most_bytes=MAX_DOCUMENT_BYTES,
            before=before,
        )
    except AskError as error:
        raise (_malformed if error.fault is Fault.BODY else _unavailable)(error.message) from error


def _check_scheme(source: KeySource, target: httpx.URL, before: httpx.URL | None) -> None:
    """Raise `Unavailable` for what is not HTTPS; HTTP goes where private addresses do, never after HTTPS."""
    may_be_plain = source.allow_private and (before is None or before.scheme == "http")
    if target.scheme == "https" or (target.scheme == "http" and may_be_plain):
        return
    raise _unavailable(f"{printable(str(target), 200)} is not https")


def _begin(source: KeySource) -> str:
    """The URL that is asked first."""
    return source.url or source.issuer.removesuffix("/") + DISCOVERY_PATH


def _max_age(headers: Mapping[str, str]) -> timedelta | None:
    """For how long the answer may be kept, by its sender; None where it does not say (RFC 9111 section 5.2.2)."""
    said = headers.get("cache-control", "").lower()
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
