"""What goes wrong with a call to Vault, told apart by who can mend it (pure)."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import requests

from citadel.errors import Reason, Unavailable
from citadel.printable import printable

CAPABILITIES: Final[Mapping[str, str]] = MappingProxyType(
    {"GET": "read", "LIST": "list", "POST": "update", "DELETE": "delete"}
)
_MOST_WORDS: Final = 300  # characters
# 412: a performance standby that has not heard of it yet; 429: a quota; 501: not initialised; 503: sealed.
_PASSING: Final = frozenset({412, 429, 501, 502, 503, 504})
# A 500 by which Vault says that it has no leader, or that its own storage does not answer.
_PASSING_WORDS: Final = ("local node not active", "context deadline exceeded", "context canceled")
_FORBIDDEN: Final = frozenset({401, 403})
_CUT: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


def trouble_of_answer(status: int, words: str | None, *, method: str, path: str) -> Unavailable:
    """What an answer that is not a good one means; `words` are Vault's, or none where what answers is not Vault."""
    said = f": {words}" if words else ""
    if status in _FORBIDDEN:
        return Unavailable(
            Reason.VAULT_DENIED, f"Vault's policy does not allow `{CAPABILITIES.get(method, method)}` on `{path}`"
        )
    if status in _PASSING or (status >= 500 and (words is None or _is_passing(words))):
        return Unavailable(Reason.VAULT_UNAVAILABLE, f"Vault does not serve now ({status}){said}")
    if words is None:
        return Unavailable(Reason.VAULT_REFUSED, f"what answers {path} ({status}) is not Vault; see vault.address")
    if status == 404:
        if words:  # "no handler for route" or "unsupported path": only then it says something
            return Unavailable(Reason.VAULT_NOT_FOUND, f"nothing in Vault serves `{path}`; is its mount right?{said}")
        return Unavailable(Reason.VAULT_NOT_FOUND, f"there is nothing at `{path}` in Vault")
    return Unavailable(Reason.VAULT_REFUSED, f"Vault refuses `{path}` ({status}){said}")


def trouble_of_error(error: Exception) -> Unavailable:
    """What kept an answer from coming."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Unavailable(Reason.VAULT_UNTRUSTED, f"Vault's certificate does not verify: {cause.verify_message}")
    for cause in causes:
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, _CUT):
            return Unavailable(Reason.VAULT_UNTRUSTED, f"Vault does not speak TLS with this server: {cause.reason}")
    if isinstance(error, requests.Timeout):
        return Unavailable(Reason.VAULT_UNAVAILABLE, "Vault did not answer in time")
    if isinstance(error, requests.TooManyRedirects):
        return Unavailable(Reason.VAULT_UNAVAILABLE, "the nodes of Vault send this server from one to the other")
    why = next((cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror), None)
    return Unavailable(Reason.VAULT_UNAVAILABLE, f"Vault cannot be reached: {why or 'the connection was cut'}")


def words_of(body: str) -> str | None:
    """Vault's own words in one line, empty where it says nothing; `None` for what is no answer of Vault's."""
    try:
        answer: Any = json.loads(body)
    except ValueError:
        return None
    errors = answer.get("errors") if isinstance(answer, dict) else None
    if not isinstance(errors, list):
        return "" if isinstance(answer, dict) else None
    return printable(" ".join("; ".join(map(str, errors)).split()), _MOST_WORDS)


def _is_passing(words: str) -> bool:
    return any(each in words for each in _PASSING_WORDS)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """What lies below `error`: innermost first. urllib3 keeps it in arguments and in `reason` as well."""
    below = [error.__cause__, error.__context__, getattr(error, "reason", None), *error.args]
    for each in below:
        if isinstance(each, BaseException):
            yield from _causes(each)
    yield error
