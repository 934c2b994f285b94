"""What Vault's answers mean, and what goes wrong, told apart by who can mend it (pure)."""

from __future__ import annotations

import ssl
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import requests

from ca.vault.answers import MOST_BYTES, AnswerTooLongError, parsed
from citadel.errors import Reason, Unavailable
from citadel.printable import printable

_CAPABILITIES: Final[Mapping[str, str]] = MappingProxyType(
    {"GET": "read", "LIST": "list", "POST": "update", "DELETE": "delete"}
)
_MOST_WORDS: Final = 300  # characters
_GOOD: Final = range(200, 300)
_ELSEWHERE: Final = range(300, 400)
_ITS_OWN: Final = range(500, 600)
_FORBIDDEN: Final = frozenset({401, 403})
_MISSING: Final = 404
_ALWAYS_THERE: Final = ("sys/", "auth/token/")
_WITHOUT_TLS: Final = b"Client sent an HTTP request to an HTTPS server"  # as Go says it
# 412: a node that has not heard of it yet; 429: a quota; 501: not initialised; 503: sealed; others by what is between.
_PASSING: Final = frozenset({408, 412, 429, 501, 502, 503, 504})
# A 500 that says that there is no leader, or that the storage does not answer.
_PASSING_WORDS: Final = ("local node not active", "context deadline exceeded", "context canceled")
_CUT: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


def taken(status: int, body: bytes, *, method: str, path: str, secrets: Collection[str]) -> Mapping[str, Any]:
    """The answer, where it is a good one. Raises `Unavailable` for any other; none of `secrets` is in its words."""
    if status in _GOOD and not body:
        return {}
    if _WITHOUT_TLS in body:
        raise Unavailable(
            Reason.VAULT_REFUSED, "Vault speaks TLS, and vault.address does not", fix="let it begin with https://"
        )
    answer = parsed(body)
    if status in _GOOD and answer is not None:
        return answer
    words = _words(answer, secrets) if answer is not None else None
    if status == _MISSING and method == "DELETE" and words == "":
        return {}
    raise _trouble(status, words, method=method, path=path)


def trouble_of_error(error: Exception, *, address: str, ca_file: Path | None) -> Unavailable:
    """What kept an answer from coming, asked at `address`."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            anchors = f"the authority in {ca_file}" if ca_file is not None else "the authorities of the system"
            return Unavailable(
                Reason.VAULT_UNTRUSTED,
                f"Vault's certificate does not verify: {cause.verify_message}, at {address} with {anchors}",
                fix="set vault.ca_file to the authority of that certificate, and vault.address to a host that it names",
            )
    for cause in causes:
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, _CUT):
            return Unavailable(
                Reason.VAULT_UNTRUSTED,
                f"Vault does not speak TLS with this server at {address}: {cause.strerror or cause}",
                fix="look whether Vault's listener there has TLS, and which versions of it",
            )
    if isinstance(error, AnswerTooLongError):
        problem = f"what answers at {address} is not Vault: it has more than {MOST_BYTES} bytes to say"
        return Unavailable(Reason.VAULT_REFUSED, problem, fix="look at vault.address")
    if isinstance(error, requests.Timeout):
        return Unavailable(Reason.VAULT_UNAVAILABLE, "Vault did not answer in time")
    if isinstance(error, requests.TooManyRedirects):
        return Unavailable(Reason.VAULT_UNAVAILABLE, "the nodes of Vault send this server from one to the other")
    why = next((cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror), None)
    return Unavailable(Reason.VAULT_UNAVAILABLE, f"Vault cannot be reached: {why or 'the connection was cut'}")


def _trouble(status: int, words: str | None, *, method: str, path: str) -> Unavailable:
    """`words` are Vault's; none where what answers is not Vault."""
    said = f": {words}" if words else ""
    if status in _PASSING or (status in _ITS_OWN and (words is None or _is_passing(words))):
        return Unavailable(Reason.VAULT_UNAVAILABLE, f"Vault does not serve now ({status}){said}")
    if status in _ELSEWHERE:
        return Unavailable(
            Reason.VAULT_REFUSED,
            f"Vault sends this server elsewhere ({status}), to where no token goes",
            fix="set vault.address to Vault itself, and api_addr of its nodes to their https URLs",
        )
    if words is None:
        return Unavailable(
            Reason.VAULT_REFUSED, f"what answers `{path}` ({status}) is not Vault", fix="look at vault.address"
        )
    if status in _FORBIDDEN:
        # Said alike where nothing is mounted, but of what is always there.
        or_nothing = "" if path.startswith(_ALWAYS_THERE) else ", or nothing is mounted there"
        capability = _CAPABILITIES.get(method, method)
        return Unavailable(Reason.VAULT_DENIED, f"Vault's policy does not allow `{capability}` on `{path}`{or_nothing}")
    if status == _MISSING:  # of a missing name Vault says nothing, of a missing mount it does
        what = (
            f"nothing serves `{path}` in Vault; is its mount right?"
            if words
            else f"there is nothing at `{path}` in Vault"
        )
        return Unavailable(Reason.VAULT_NOT_FOUND, f"{what}{said}")
    return Unavailable(Reason.VAULT_REFUSED, f"Vault refuses `{path}` ({status}){said}")


def _words(answer: Mapping[str, Any], secrets: Collection[str]) -> str:
    """Vault's own words in one line, empty where it says nothing."""
    words = "; ".join(answer.get("errors", ()))
    for secret in secrets:
        words = words.replace(secret, "(secret)")
    return printable(" ".join(words.split()), _MOST_WORDS)


def _is_passing(words: str) -> bool:
    return any(each in words for each in _PASSING_WORDS)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error` after all that lies below it. urllib3 keeps that in arguments and in `reason` as well."""
    for each in (error.__cause__, error.__context__, getattr(error, "reason", None), *error.args):
        if isinstance(each, BaseException):
            yield from _causes(each)
    yield error
