"""The one plain form of what a request asks for, so that rules see the same thing however it is spelled.

Source: RFC 3986 section 6, RFC 9110 section 4.2.3, and what Envoy does with the listener settings that ship
(`docs/end-users.md` has both beside each other). Where programs behind the proxy would understand a spelling in two
ways there is no plain form, and `ValueError` says why.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote_to_bytes

# The most common spelling is the plain one; a segment that begins with a dot is looked at closely.
_PLAIN_PATH: Final = re.compile(r"/|(?:/(?!\.)[A-Za-z0-9._~!$&'()*+,=:@-]+)+/?")
_END_OF_PATH: Final = re.compile(r"[?#]")
_SEPARATOR: Final = re.compile(r"(/|\\|%2[fF]|%5[cC])")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ESCAPE: Final = re.compile(r"%[0-9A-Fa-f]{2}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UNESCAPED: Final = "-._~!$&'()*+,=:@"  # RFC 3986 section 3.3, without the `;` that parameters begin with
_PORT: Final = r"(?::[0-9]*)?"
_HOST_NAME: Final = re.compile(rf"([a-z0-9_-]+(?:\.[a-z0-9_-]+)*)\.?{_PORT}")
_HOST_V6: Final = re.compile(rf"\[([0-9a-f:.]+)\]{_PORT}")
_METHOD: Final = re.compile(r"[A-Z]+(?:-[A-Z]+)*")


@dataclass(frozen=True, slots=True)
class _Segment:
    text: str  # escaped as in the plain form, without parameters
    parameters: bool
    fenced: bool  # by plain slashes on both sides, or the end

    @property
    def is_dots(self) -> bool:
        return self.text in (".", "..")


def plain_path(path: str) -> str:
    """Without query, fragment and parameters (`;x`), dots resolved, slashes single, escapes only where they must be.

    A backslash and the escapes of both slashes are slashes. The plain form of a plain form is itself. Raises
    `ValueError`.
    """
    if _PLAIN_PATH.fullmatch(path) is not None:
        return path
    if not path.startswith("/"):
        raise ValueError("the path does not begin with /")
    pieces = _SEPARATOR.split(_END_OF_PATH.split(path, maxsplit=1)[0])[1:]
    separators, raws = pieces[0::2], pieces[1::2]
    kept: list[str] = []
    ends_as_folder = False
    for index, raw in enumerate(raws):
        following = separators[index + 1] if index + 1 < len(separators) else "/"
        segment = _segment(raw, fenced=separators[index] == following == "/")
        if segment.is_dots:
            _resolve(segment, kept)
        else:
            kept.append(segment.text)
        ends_as_folder = segment.is_dots or not segment.text
    named = [each for each in kept if each]
    return "/" + "/".join(named) + ("/" if named and ends_as_folder else "")


def plain_host(host: str) -> str:
    """In lowercase, without port and final dot; empty where the request names none. Raises `ValueError`."""
    if not host:
        return ""
    lower = host.lower() if host.isascii() else host
    if (name := _HOST_NAME.fullmatch(lower)) is not None:
        return name[1]
    if (v6 := _HOST_V6.fullmatch(lower)) is not None:
        with contextlib.suppress(ipaddress.AddressValueError):
            return f"[{ipaddress.IPv6Address(v6[1]).compressed}]"
    raise ValueError("the host is neither a name nor an address")


def plain_method(method: str) -> str:
    """Methods are told apart by their case (RFC 9110 section 9.1), but not by every program. Raises `ValueError`."""
    if _METHOD.fullmatch(method) is None:
        raise ValueError("the method is not a word in capitals")
    return method


def _segment(raw: str, *, fenced: bool) -> _Segment:
    if _BAD_ESCAPE.search(raw) is not None:
        raise ValueError("the path has a % without two hexadecimal digits")
    try:
        text = unquote_to_bytes(raw).decode("utf-8")
    except UnicodeError as error:
        raise ValueError("the path is not UTF-8") from error
    if _CONTROL.search(text) is not None:
        raise ValueError("the path has a control character")
    if _ESCAPE.search(text) is not None:
        raise ValueError("the path has something escaped twice")
    text, semicolon, _ = text.partition(";")
    return _Segment(quote(text, safe=_UNESCAPED), bool(semicolon), fenced)


def _resolve(dots: _Segment, kept: list[str]) -> None:
    if dots.parameters or not dots.fenced:
        # Only some programs see a parent folder in `..;x` and `..%2F`: others would serve what stands before it.
        raise ValueError("the path has . or .. beside an escaped slash, a backslash or parameters")
    if dots.text == ".." and kept and not kept.pop() and any(kept):
        raise ValueError("the path has .. after //")  # which goes up from /a, or to it: RFC 3986 or file systems
