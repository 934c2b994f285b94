"""What may be written in each list of a rule, so that no rule stands there which nothing could ever match.

Each function parses one item, and raises `ValueError` that says what to write instead.
"""

from __future__ import annotations

import re
from typing import Final

from citadel.access.normal import plain_host, plain_path
from citadel.access.patterns import Form, PathTemplate, Pattern, TextPattern
from citadel.errors import InvalidArgument
from citadel.spiffe import SCHEME, SpiffeId, TrustDomain

# The registry of RFC 9110 section 16.1.1, without `*` and PRI, which no request has.
METHODS: Final = frozenset(
    {
        *("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"),
        *("ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "COPY", "LABEL", "LINK", "LOCK", "MERGE"),
        *("MKACTIVITY", "MKCALENDAR", "MKCOL", "MKREDIRECTREF", "MKWORKSPACE", "MOVE", "ORDERPATCH", "PROPFIND"),
        *("PROPPATCH", "QUERY", "REBIND", "REPORT", "SEARCH", "UNBIND", "UNCHECKOUT", "UNLINK", "UNLOCK", "UPDATE"),
        *("UPDATEREDIRECTREF", "VERSION-CONTROL"),
    }
)
_HOST_PART: Final = re.compile(r"[a-z0-9._-]+")


def text(written: str) -> TextPattern:
    """Issuers, subjects, audiences, claims and headers may be any text."""
    return TextPattern.parse(written)


def principal(written: str) -> TextPattern:
    """`spiffe://example.org/web`, `spiffe://example.org/ns/*`, `*/sa/web`, `*`."""
    pattern = TextPattern.parse(written)
    if pattern.form is Form.ANY:
        return pattern
    if pattern.form is Form.SUFFIX:
        _spiffe_id(f"{SCHEME}x{'' if pattern.text.startswith('/') else '/x'}{pattern.text}")
        return pattern
    if not written.startswith(SCHEME):
        raise ValueError(f"a SPIFFE ID is written in full, such as {SCHEME}{written}")
    if pattern.form is Form.EXACT:
        _spiffe_id(pattern.text)
        return pattern
    if "/" not in pattern.text.removeprefix(SCHEME):
        # Anybody may found a trust domain whose name begins with that of another.
        raise ValueError(f"a * stands behind the whole name of the trust domain, such as {pattern.text}/*")
    _spiffe_id(f"{pattern.text}x")
    return pattern


def trust_domain_of(principal: Pattern) -> str | None:
    """The one trust domain of all peers that are meant; None where there may be several."""
    whole = str(principal)
    return whole.removeprefix(SCHEME).partition("/")[0] if whole.startswith(SCHEME) else None


def trust_domain(written: str) -> TextPattern:
    """`example.org`, `*.example.org`, `*`."""
    pattern = TextPattern.parse(written)
    if pattern.form is Form.PREFIX:
        raise ValueError("anybody may found a trust domain whose name begins like that of another: write it in full")
    if pattern.form is not Form.ANY:
        try:
            TrustDomain(pattern.text)
        except InvalidArgument as error:
            raise ValueError(error.message) from error
    return pattern


def host(written: str) -> TextPattern:
    """In any case, without a port: that of a request is not looked at."""
    pattern = TextPattern.parse(written.lower())
    if pattern.form is Form.ANY:
        return pattern
    name, colon, port = written.rpartition(":")
    if colon and not written.endswith("]"):
        raise ValueError(f"a host is compared without its port: write {name!r} for every port of it, not {port!r}")
    if pattern.form is Form.EXACT:
        plain = plain_host(pattern.text)
        if plain != pattern.text:
            raise ValueError(f"no request has this host: write {plain!r}")
    elif _HOST_PART.fullmatch(pattern.text) is None or ".." in pattern.text or written.endswith("."):
        raise ValueError("no host looks like this")
    return pattern


def method(written: str) -> TextPattern:
    """One of the registered ones, or `*`."""
    if written == "*" or written in METHODS:
        return TextPattern.parse(written)
    if written.upper() in METHODS:
        raise ValueError(f"methods are told apart by their case: write {written.upper()}")
    raise ValueError("no registered method of HTTP (RFC 9110 section 16.1.1)")


def path(written: str) -> Pattern:
    """`/a`, `/a/*`, `*.css`, `*`, `/users/{*}/files/{**}`."""
    if "{" in written or "}" in written:
        example = written.replace("{**}", "x").replace("{*}", "x")
        template = PathTemplate.parse(written)
        _check_path(written, example)
        return template
    pattern = TextPattern.parse(written)
    if pattern.form is Form.EXACT:
        _check_path(pattern.text, pattern.text)
    elif pattern.form is Form.PREFIX:
        _check_path(pattern.text, f"{pattern.text}x")
    elif pattern.form is Form.SUFFIX:
        _check_path(pattern.text, f"/x{pattern.text}")
    return pattern


def _check_path(written: str, example: str) -> None:
    try:
        plain = plain_path(example)
    except ValueError as error:
        raise ValueError(f"no request that gets here has this path: {error}") from error
    if plain != example:
        advice = f": write {plain!r}" if written == example else ": write it without escapes, queries, // and .."
        raise ValueError(f"no request has this path once it is normalised{advice}")


def _spiffe_id(example: str) -> None:
    try:
        SpiffeId.parse(example)
    except InvalidArgument as error:
        raise ValueError(error.message) from error
