"""The one plain form of what a request asks for, so that rules see the same thing however it is spelled.

Source: RFC 3986 section 6, RFC 9110 section 4.2.3, and what Envoy does with the listener settings that ship
(`docs/end-users.md` has both beside each other). Where programs behind the proxy would understand a spelling in two
ways there is no plain form, and `ValueError` says why.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
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
_LONGEST_PATH: Final = 8192  # what HTTP servers take, and no reason to keep others waiting
_PORT: Final = r"(?::[0-9]*)?"
_HOST_NAME: Final = re.compile(rf"([a-z0-9_-]+(?:\.[a-z0-9_-]+)*)\.?{_PORT}")
_HOST_V6: Final = re.compile(rf"\[([0-9a-f:.]+)\]{_PORT}")
_METHOD: Final = re.compile(r"[A-Z]+(?:-[A-Z]+)*")


@dataclass(frozen=True, slots=True)
class _Segment:
    text: str  # escaped as in the plain form, without parameters
    whole: str  # with them
    fenced: bool  # by plain slashes on both sides, or the end

    @property
    def parameters(self) -> bool:
        return self.text != self.whole


class _Stack:
    """The segments so far, as `.` and `..` leave them (RFC 3986 section 5.2.4)."""

    def __init__(self) -> None:
        self._named: list[tuple[str, int]] = []  # each with the number of empty ones before it
        self._empty = 0  # those behind the last one
        self._ends_as_folder = False

    def take(self, segment: _Segment) -> None:
        """One more. Raises `ValueError` where some programs go up by it, or from another place, and others do not."""
        if segment.text in (".", ".."):
            if segment.parameters or not segment.fenced:  # `..;x` and `..%2F`: to some they are names
                raise ValueError("the path has . or .. beside an escaped slash, a backslash or parameters")
            if segment.text == "..":
                self._go_up()
        elif segment.text:
            self._named.append((segment.text, self._empty))
            self._empty = 0
        else:
            self._empty += 1
        self._ends_as_folder = segment.text in ("", ".", "..")

    def _go_up(self) -> None:
        if self._empty and self._named:
            raise ValueError("the path has .. after //")  # from /a//, to /a/ by RFC 3986 and to / by file systems
        if self._empty:
            self._empty -= 1
        elif self._named:
            _, self._empty = self._named.pop()

    def __str__(self) -> str:
        path = "".join(f"/{name}" for name, _ in self._named)
        return f"{path}/" if self._ends_as_folder or not path else path


def plain_path(path: str) -> str:
    """Without query, fragment and parameters (`;x`), dots resolved, slashes single, escapes only where they must be.

    A backslash and the escapes of both slashes are slashes. The plain form of a plain form is itself. Raises
    `ValueError`.
    """
    return plain_paths(path)[0]


def plain_paths(path: str) -> tuple[str, ...]:
    """The plain form, and that for programs to which parameters are part of the names, where there are any."""
    if _PLAIN_PATH.fullmatch(path) is not None and len(path) <= _LONGEST_PATH:
        return (path,)
    if not path.startswith("/"):
        raise ValueError("the path does not begin with /")
    path = _END_OF_PATH.split(path, maxsplit=1)[0]
    if len(path) > _LONGEST_PATH:
        raise ValueError(f"the path has more than {_LONGEST_PATH} characters")
    pieces = _SEPARATOR.split(path)[1:]
    separators, raws = pieces[0::2], pieces[1::2]
    segments = [
        _segment(raw, fenced=beside == ["/", "/"])
        for raw, *beside in zip(raws, separators, [*separators[1:], "/"], strict=True)
    ]
    plain = _resolved(segments)
    if not any(each.parameters for each in segments):
        return (plain,)
    return plain, _resolved([replace(each, text=each.whole) for each in segments])


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


def _resolved(segments: Iterable[_Segment]) -> str:
    stack = _Stack()
    for each in segments:
        stack.take(each)
    return str(stack)


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
    return _Segment(quote(text.partition(";")[0], safe=_UNESCAPED), quote(text, safe=_UNESCAPED), fenced)
