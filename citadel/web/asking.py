"""One GET of a document: redirects are followed by hand, each target judged, and no more is read than is wanted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Protocol

import httpx

from citadel.printable import printable

# Nothing packed: a small answer could unpack to anything.
HEADERS: Final = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "citadel"}
_MOST_REDIRECTS: Final = 3
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

# Raises for a target that must not be asked; the second is what led there.
Judge = Callable[[httpx.URL, httpx.URL | None], None]


class Fault(Enum):
    """What was wrong."""

    NETWORK = auto()  # no answer; the error has httpx's own as its cause
    REDIRECTS = auto()
    STATUS = auto()
    BODY = auto()


class AskError(Exception):
    """There is no document. `message` says why, in words without a secret of the URL."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault
        self.message = message


class Response(Protocol):
    """What is looked at of an answer."""

    @property
    def status_code(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    def aiter_raw(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        ...


@dataclass(frozen=True, slots=True)
class Document:
    """A whole answer, where it came from in the end, and its headers."""

    url: httpx.URL
    headers: Mapping[str, str]
    body: bytes


# Sends one request, follows nothing. Raises `httpx.HTTPError`.
Open = Callable[[httpx.URL], AbstractAsyncContextManager[Response]]


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
                if response.status_code not in _REDIRECTS:
                    return Document(target, response.headers, await _body(target, response, most_bytes))
                following = target.join(response.headers.get("location", ""))
        except httpx.HTTPError as error:
            raise AskError(Fault.NETWORK, f"{shown(target)}: {_plainly(error)}") from error
        judge(following, target)
        target = following
    raise AskError(Fault.REDIRECTS, f"more than {_MOST_REDIRECTS} redirects")


def shown(url: httpx.URL) -> str:
    """For people and logs: neither a password nor a query, which may be one."""
    return printable(f"{url.scheme}://{url.netloc.decode('ascii')}{url.path}", 200)


async def _body(url: httpx.URL, response: Response, most_bytes: int) -> bytes:
    if response.status_code != 200:
        raise AskError(Fault.STATUS, f"{shown(url)} answered {response.status_code}")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise AskError(Fault.BODY, f"{url.host} packed its answer, which it was asked not to")
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > most_bytes:
            raise AskError(Fault.BODY, f"the answer of {url.host} is longer than {most_bytes} bytes")
    return bytes(body)


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
