"""What stands in the lists of a rule: exact, `x*`, `*x`, `*` for whatever is there at all, and templates of paths.

As in Istio, except that a `*` in any other place is refused: Istio takes it for the letter.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol, Self

from citadel.jwt.user import RequestPrincipal

ANY: Final = "*"
_ONE: Final = "{*}"
_SOME: Final = "{**}"

Value = str | RequestPrincipal


class Pattern(Protocol):
    """One thing that a list of a rule names."""

    def matches(self, value: Value) -> bool:
        """Whether this is what was meant. Nothing empty ever is."""
        ...


class Form(StrEnum):
    """Which part of a text is given."""

    EXACT = "exact"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    ANY = "any"


_FITS: Final[dict[Form, Callable[[str], Callable[[str], bool]]]] = {
    Form.EXACT: lambda text: text.__eq__,
    Form.PREFIX: lambda text: lambda value: value.startswith(text),
    Form.SUFFIX: lambda text: lambda value: value.endswith(text),
    Form.ANY: lambda _: lambda _: True,
}


@dataclass(frozen=True, slots=True)
class TextPattern:
    """`text` is without the star."""

    form: Form
    text: str
    _fits: Callable[[str], bool] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_fits", _FITS[self.form](self.text))

    @classmethod
    def parse(cls, written: str) -> Self:
        """Raises `ValueError` for an empty one, and for a `*` that would not mean what it seems to."""
        if not written:
            raise ValueError("is empty, which nothing matches")
        if written == ANY:
            return cls(Form.ANY, "")
        form, text = Form.EXACT, written
        if written.endswith("*"):
            form, text = Form.PREFIX, written[:-1]
        elif written.startswith("*"):
            form, text = Form.SUFFIX, written[1:]
        if "*" in text:
            raise ValueError("a * has a meaning at the beginning or at the end only, and only one; list what you mean")
        return cls(form, text)

    def matches(self, value: Value) -> bool:
        return isinstance(value, str) and value != "" and self._fits(value)

    def __str__(self) -> str:
        return {
            Form.EXACT: self.text,
            Form.PREFIX: f"{self.text}*",
            Form.SUFFIX: f"*{self.text}",
            Form.ANY: ANY,
        }[self.form]


@dataclass(frozen=True, slots=True)
class PathTemplate:
    """`/users/{*}/files/{**}`: one whole segment, and any number of them."""

    written: str
    _expression: re.Pattern[str] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, written: str) -> Self:
        """As Envoy's URI templates. Raises `ValueError`."""
        segments = written.removeprefix("/").split("/")
        wild = [segment for segment in segments if segment in (_ONE, _SOME)]
        if not written.startswith("/") or any(set("{}*") & set(each) for each in segments if each not in wild):
            raise ValueError("a template has {*} or {**} as whole segments and no other braces or stars")
        if _SOME in wild[:-1]:
            raise ValueError("nothing wild can stand behind {**}")
        meanings = {_ONE: "[^/]+", _SOME: ".*"}
        return cls(written, re.compile("".join(f"/{meanings.get(each) or re.escape(each)}" for each in segments)))

    def matches(self, value: Value) -> bool:
        return isinstance(value, str) and self._expression.fullmatch(value) is not None

    def __str__(self) -> str:
        return self.written


@dataclass(frozen=True, slots=True)
class PrincipalPattern:
    """An end user by issuer and subject, each of which must match: never by both as one text."""

    issuer: TextPattern
    subject: TextPattern

    def matches(self, value: Value) -> bool:
        return (
            isinstance(value, RequestPrincipal)
            and self.issuer.matches(value.issuer)
            and self.subject.matches(value.subject)
        )

    def __str__(self) -> str:
        return f"issuer {self.issuer}, subject {self.subject}"
