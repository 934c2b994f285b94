"""What an API server answers: objects, events, refusals."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, Final, NoReturn

import aiohttp
from aiohttp.http_exceptions import LineTooLong

from citadel.errors import FailedPrecondition, NotFound, Reason, Unavailable
from citadel.kubernetes.ports import ApiUnavailable, Each, WatchEvent, WatchExpired

_DECODER: Final = json.JSONDecoder()
_ITEMS: Final = '"items":['  # as API servers write it; what stands before, the list's metadata, never has this
_MOST_SHOWN: Final = 300  # characters of an answer that are repeated in a refusal
_LONG: Final = re.compile(r"[\w+/=.-]{40,}")  # as tokens and keys are
_MOST_RETRY_AFTER: Final = timedelta(minutes=5)


async def events_of(response: aiohttp.ClientResponse, path: str) -> AsyncIterator[WatchEvent]:
    """The lines of a watch until it ends, as it also does when nothing is heard for too long."""
    try:
        async for line in response.content:
            event = object_of(line.decode(errors="replace"), path)
            found = dict_of(event.get("object"))
            if event.get("type") == "ERROR":
                code, later = found.get("code"), dict_of(found.get("details")).get("retryAfterSeconds")
                status = code if isinstance(code, int) else 500
                _failed(status, str(found.get("message", "")), "watch", path, str(later))
            yield WatchEvent(str(event.get("type")), without_managers(found))
    except aiohttp.SocketTimeoutError:
        return  # see `Patience`
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise ApiUnavailable(f"a watch of {path} broke off: {words_of(error)}") from error
    except (ValueError, LineTooLong) as error:  # longer than any object that etcd takes; a list has no such limit
        raise WatchExpired(f"a watch of {path} cannot be read: {error}") from error


class AnswerTooLong(ApiUnavailable):
    """More than is taken of an API server: it would fill the memory of all that this process does."""


async def text_of(response: aiohttp.ClientResponse, *, most: int) -> str:
    """All of an answer, which has at most so many bytes once it is unpacked."""
    found = bytearray()
    try:
        async for some in response.content.iter_any():
            found += some
            if len(found) > most:
                raise AnswerTooLong(f"the API server's answer has more than {most} bytes")
        return found.decode(errors="replace")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise ApiUnavailable(f"the API server's answer broke off: {words_of(error)}") from error


def object_of(text: str, path: str) -> dict[str, Any]:
    """The JSON object that an API server's answer is; anything else says that none answers."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ApiUnavailable(f"what answers at {path} is no API server{_glimpse(text)}") from error
    if not isinstance(found, dict):
        raise ApiUnavailable(f"what answers at {path} is no API server{_glimpse(text)}")
    return found


def _glimpse(text: str) -> str:
    """What people may see of an answer that is no API server's, such as a proxy's page.

    Half of an object can hold a secret, and whoever echoes a request has its token.
    """
    if text.lstrip()[:1] in ("{", "[", '"', ""):
        return ""
    return f": {_LONG.sub('…', text)[:_MOST_SHOWN]!r}"


def page_of(text: str, path: str, each: Each) -> tuple[list[Any], dict[str, Any]]:
    """What `each` makes of the objects of a list, and the list's own metadata.

    They are read one by one: all at once they take several times the memory of the text, and much of it for good.
    """
    start = text.find(_ITEMS) + len(_ITEMS)
    if start < len(_ITEMS):
        return _whole_page_of(text, path, each)
    found, at = [], start
    try:
        while text[at] != "]":
            item, at = _DECODER.raw_decode(text, at + (text[at] == ","))
            if isinstance(item, dict):
                found.append(each(without_managers(item)))
    except (ValueError, IndexError, RecursionError):
        return _whole_page_of(text, path, each)
    return found, dict_of(object_of(text[:start] + text[at:], path).get("metadata"))


def _whole_page_of(text: str, path: str, each: Each) -> tuple[list[Any], dict[str, Any]]:
    """The same of JSON in any form. What has no items is no list: an empty one would take everything away."""
    page = object_of(text, path)
    items = [] if page.get("items", 0) is None else page.get("items")  # null is how none are written as well
    if not isinstance(items, list):
        raise ApiUnavailable(f"what answers at {path} is no API server{_glimpse(text)}")
    return [each(without_managers(item)) for item in items if isinstance(item, dict)], dict_of(page.get("metadata"))


def dict_of(found: object) -> dict[str, Any]:
    """An empty one for what is none."""
    return found if isinstance(found, dict) else {}


def without_managers(found: dict[str, Any]) -> dict[str, Any]:
    """Without who set which field, which is half of an object and of use to nobody here."""
    dict_of(found.get("metadata")).pop("managedFields", None)
    return found


def refused(response: aiohttp.ClientResponse, text: str, method: str, path: str) -> NoReturn:
    """Raise what an answer of 400 and more means."""
    try:
        said = str(json.loads(text).get("message", ""))
    except (ValueError, AttributeError, RecursionError):
        said = _glimpse(text).removeprefix(": ")
    _failed(response.status, said[:_MOST_SHOWN], method, path, response.headers.get("Retry-After"))


def _failed(status: int, said: str, method: str, path: str, retry_after: str | None) -> NoReturn:
    what = f"{method} {path}: {said or status}"
    match status:
        case 401:
            raise Unavailable(Reason.KUBERNETES_LOGIN_REFUSED, f"the API server does not know who asks: {what}")
        case 403:
            raise Unavailable(
                Reason.KUBERNETES_DENIED,
                f"the API server does not allow it: {what}",
                fix="compare the ClusterRole with the one that the chart installs",
            )
        case 404:
            raise NotFound(Reason.KUBERNETES_NOT_FOUND, what)
        case 409:
            raise FailedPrecondition(Reason.KUBERNETES_CONFLICT, what)
        case 410:
            raise WatchExpired(what)
        case 408 | 429 | 500 | 502 | 503 | 504:
            raise ApiUnavailable(f"the API server answers {status} to {what}", retry_after=_span(retry_after))
        case _:
            raise Unavailable(Reason.KUBERNETES_REFUSED, f"the API server refuses ({status}): {what}")


def _span(seconds: str | None) -> timedelta | None:
    if seconds is None or not seconds.isascii() or not seconds.isdigit():
        return None
    return min(timedelta(seconds=min(int(seconds), 10_000)), _MOST_RETRY_AFTER)


def words_of(error: BaseException) -> str:
    """What is wrong, in words: some errors have none of their own."""
    return str(error) or type(error).__name__
