"""One GET of a document: redirects are followed by hand, each target judged, and no more is read than is wanted."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import httpcore
import httpx

from citadel.printable import printable

_MOST_REDIRECTS: Final = 3
_MOST_PIECES: Final = 10_000  # each costs as much as some hundred bytes
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_PLACE_IN_C: Final = re.compile(r" \(_ssl\.c:\d+\)")
# What TLS finds wrong once the handshake is done, httpcore raises as it came: as an `OSError`.
_FAILURES: Final = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError)

# Raises for a target that must not be asked; the second is what led there.
Judge = Callable[[httpx.URL, httpx.URL | None], None]


class Fault(Enum):
    """What was wrong."""

    NETWORK = auto()  # no answer; the error has the network's own as its cause
    REDIRECTS = auto()
    STATUS = auto()
    BODY = auto()


class AskError(Exception):
    """There is no document. `message` says why, in words without a secret of the URL."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault
        self.message = message


@dataclass(frozen=True, slots=True)
class Document:
    """A whole answer, where it came from in the end, and its headers."""

    url: httpx.URL
    headers: Mapping[str, str]
    body: bytes


# Sends one request, follows nothing. Raises what httpcore does, and `OSError`.
Open = Callable[[httpx.URL], AbstractAsyncContextManager[httpcore.Response]]


async def get(
    open_: Open, url: str | httpx.URL, *, judge: Judge, most_bytes: int, before: httpx.URL | None = None
) -> Document:
    """The answer with the status 200. `before` is what named `url`.

    Raises `AskError`, `httpx.InvalidURL`, and what `judge` raises. How long it may take, the caller says.
    """
    target = httpx.URL(url)
    judge(target, before)
    for _ in range(_MOST_REDIRECTS + 1):
        try:
            async with open_(target) as response:
                headers = httpx.Headers(response.headers)
                if response.status not in _REDIRECTS:
                    return Document(target, headers, await _body(target, response, headers, most_bytes))
                following = target.join(headers.get("location", ""))
        except _FAILURES as error:
            raise AskError(Fault.NETWORK, f"{shown(target)}: {_plainly(error)}") from error
        judge(following, target)
        target = following
    raise AskError(Fault.REDIRECTS, f"more than {_MOST_REDIRECTS} redirects")


def shown(url: httpx.URL) -> str:
    """For people and logs: neither a password nor a query, which may be one."""
    return printable(f"{url.scheme}://{url.netloc.decode('ascii')}{url.path}", 200)


async def _body(url: httpx.URL, response: httpcore.Response, headers: httpx.Headers, most_bytes: int) -> bytes:
    if response.status != 200:
        raise AskError(Fault.STATUS, f"{shown(url)} answered {response.status}")
    if headers.get("content-encoding", "identity") != "identity":
        raise AskError(Fault.BODY, f"{url.host} packed its answer, which it was asked not to")
    body, pieces = bytearray(), 0
    async for piece in response.aiter_stream():
        body += piece
        pieces += 1
        if len(body) > most_bytes:
            raise AskError(Fault.BODY, f"the answer of {url.host} is longer than {most_bytes} bytes")
        if pieces > _MOST_PIECES:
            raise AskError(Fault.BODY, f"the answer of {url.host} comes in more than {_MOST_PIECES} pieces")
    return bytes(body)


def _plainly(error: Exception) -> str:
    match error:
        case httpcore.TimeoutException():
            return "no answer in time"  # it has no words of its own
        case httpcore.ConnectError():
            what = "cannot be connected to"
        case httpcore.ProtocolError():
            what = "does not answer in good HTTP"
        case _:
            what = "the connection broke"
    text = _PLACE_IN_C.sub("", str(error))
    if "ConnectionClosed" in text:  # h11 tells of its own states
        text = "it ended the connection before its answer was whole"
    return f"{what}: {text}" if text else what
