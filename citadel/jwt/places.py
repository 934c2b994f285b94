"""Where end users' tokens are looked for in a request."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import unquote, unquote_plus

from citadel.request import HttpRequest

# Some programs end a cookie at a comma too, and headers that came twice are joined by one. A token has none.
_BETWEEN_COOKIES: Final = re.compile("[;,]")
# Proxies end a parameter at `&` alone, some programs at `;` too: the mark stays with the name, which no place has.
_BETWEEN_PARAMETERS: Final = re.compile("&|(?=;)")


@dataclass(frozen=True, slots=True)
class Place:
    """A header, a parameter of the query, or a cookie; the name of a header is lowercase."""

    kind: Literal["header", "query", "cookie"]
    name: str
    prefix: str = ""

    def values(self, request: HttpRequest) -> list[str]:
        """What stands there as a token, which is empty text where nothing follows; several where it is ambiguous."""
        match self.kind:
            case "header":
                return self._in_header(request.headers.get(self.name))
            case "query":
                pieces = (piece.partition("=") for piece in _query(request).split("&"))
                return [unquote_plus(value) for name, _, value in pieces if name == self.name]
            case "cookie":
                cookies = cookie_pairs(request.headers.get("cookie", ""))
                return [value.strip('"') for name, value in cookies if name == self.name]

    def is_misspelled_in(self, request: HttpRequest) -> bool:
        """Whether something stands there under a name that is this one to some programs, and another one to the proxy.

        Escapes, capitals, a `;` before it: what was believed under such a name could not be taken out of the request,
        and what was not looked at would go on unchecked.
        """
        match self.kind:
            case "header":  # proxies write them in lowercase
                return False
            case "query":
                query = _query(request)
                if self.name.casefold() not in unquote_plus(query).casefold():  # nearly always: no piece is looked at
                    return False
                names = [piece.partition("=")[0] for piece in _BETWEEN_PARAMETERS.split(query)]
                return any(name != self.name and self._is_read_as(unquote_plus(name)) for name in names)
            case "cookie":
                names = [name for name, _ in cookie_pairs(request.headers.get("cookie", ""))]
                return any(name != self.name and self._is_read_as(unquote(name)) for name in names)

    def _is_read_as(self, name: str) -> bool:
        return name.strip("; ").casefold() == self.name.casefold()

    def is_confused_with(self, other: Place) -> bool:
        """Whether a token for one of two different places would be looked for in the other one too."""
        if self == other or self.kind != other.kind or self.name.casefold() != other.name.casefold():
            return False
        return self.kind != "header" or self._takes_those_of(other) or other._takes_those_of(self)

    def _takes_those_of(self, other: Place) -> bool:
        return not self.prefix or self._without_prefix(f"{other.prefix}x") is not None

    def _in_header(self, value: str | None) -> list[str]:
        """A value without the prefix is no token; one with it and something beside it could be read as either."""
        if value is None:
            return []
        parts = [part.strip() for part in value.split(",")]
        if not self.prefix:
            return parts
        rests = [self._without_prefix(part) for part in parts]
        found = [rest for rest in rests if rest is not None]
        return found if len(parts) == 1 or not found else [rest or "" for rest in rests]

    def _without_prefix(self, value: str) -> str | None:
        """RFC 9110 section 11.1: a scheme is written in any case, and the space after it in any length."""
        prefix = self.prefix.rstrip()
        if value[: len(prefix)].lower() != prefix.lower():
            return None
        rest = value[len(prefix) :]
        if prefix != self.prefix and rest and not rest[0].isspace():
            return None
        return rest.strip()

    def __str__(self) -> str:
        words = {"header": "the header", "query": "the query parameter", "cookie": "the cookie"}
        return f"{words[self.kind]} {self.name!r}"


# RFC 6750, and where Istio looks unless it is told otherwise.
DEFAULT_PLACES: Final = (Place("header", "authorization", "Bearer "), Place("query", "access_token"))


def cookie_pairs(header: str) -> list[tuple[str, str]]:
    """Names and values as they are written, one for each piece of a Cookie header."""
    pieces = [piece.partition("=") for piece in _BETWEEN_COOKIES.split(header)]
    return [(name.strip(), value.strip()) for name, _, value in pieces]


def without_cookies(header: str, names: Collection[str]) -> str:
    """A Cookie header without the cookies of these names; the others stay as they are written."""
    rests = (_without(piece.strip(), names) for piece in header.split(";"))
    return "; ".join(rest for rest in rests if rest)


def _without(piece: str, names: Collection[str]) -> str:
    return ",".join(part for part in piece.split(",") if part.partition("=")[0].strip() not in names)


def _query(request: HttpRequest) -> str:
    return request.path.partition("?")[2]
