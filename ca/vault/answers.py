"""What an answer of Vault holds: bounded while it is read, and of Vault's shapes before anybody looks into it.

What answers may be a proxy in between, a plugin, or a Vault that is newer than this.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import requests

from citadel.errors import Reason, Unavailable

MOST_BYTES: Final = 8 * 1024 * 1024
_AT_ONCE: Final = 64 * 1024
_LONGEST: Final = 100 * 366 * 86400.0  # seconds: a clock can count them, and no token lasts as long


class AnswerTooLongError(requests.RequestException):
    """More than is taken: it would fill the memory of all that this process does."""


def read_bounded(response: requests.Response) -> None:
    """Read all of it now, so that whoever asks for its content has it. Raises `AnswerTooLongError`."""
    found = bytearray()
    for some in response.iter_content(_AT_ONCE):
        found += some
        if len(found) > MOST_BYTES:
            response.close()
            raise AnswerTooLongError(f"more than {MOST_BYTES} bytes")
    response._content = bytes(found)  # noqa: SLF001 - where requests itself keeps it, and looks before it reads


def parsed(body: bytes) -> Mapping[str, Any] | None:
    """The object that it is; `None` for what is no answer of Vault's."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) and _has_its_shapes(answer) else None


def seconds_in(said: Mapping[str, Any], name: str) -> float:
    """What is said under this name, or 0. Raises `Unavailable` (`vault_refused`) for what is no number."""
    value = said.get(name) or 0
    if type(value) not in (int, float) or value != value:  # noqa: PLR0124 - no number is all that differs from itself
        raise Unavailable(Reason.VAULT_REFUSED, f"what Vault says of a token has a `{name}` that is no number")
    return float(max(-_LONGEST, min(value, _LONGEST)))


def _has_its_shapes(answer: Mapping[str, Any]) -> bool:
    objects = (answer.get("data"), answer.get("auth"))
    texts = (answer.get("warnings") or [], answer.get("errors", []))
    return all(each is None or isinstance(each, dict) for each in objects) and all(map(_are_texts, texts))


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)
