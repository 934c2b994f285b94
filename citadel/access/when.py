"""The keys of `when`: which attribute of a request a condition is about."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from citadel.access import spelling
from citadel.access.patterns import ANY, Pattern, PrincipalPattern
from citadel.access.rules import Subject

_HEADER: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 section 5.6.2
_NAMES: Final = re.compile(r"(?:\[[^\[\]]+\])+")
_PLAIN: Final = {
    "source.principal": Subject.PEER,
    "request.auth.principal": Subject.PRINCIPAL,
    "request.auth.audiences": Subject.AUDIENCES,
    "request.auth.presenter": Subject.PRESENTER,
}
_NAMED: Final = {"request.auth.claims": Subject.CLAIM, "request.headers": Subject.HEADER}
_KNOWN: Final = ", ".join((*_PLAIN, *(f"{name}[...]" for name in _NAMED)))


@dataclass(frozen=True, slots=True)
class Key:
    """`names` are those in brackets: of a claim from the outside in, of one header in lowercase."""

    written: str
    subject: Subject
    names: tuple[str, ...] = ()

    @classmethod
    def parse(cls, written: str) -> Self:
        """Raises `ValueError` for a key that there is not."""
        if written in _PLAIN:
            return cls(written, _PLAIN[written])
        name, bracket, rest = written.partition("[")
        if name not in _NAMED or _NAMES.fullmatch(f"{bracket}{rest}") is None:
            raise ValueError(f"there is no such key; known are {_KNOWN}")
        names = tuple(rest.removesuffix("]").split("]["))
        if _NAMED[name] is Subject.CLAIM:
            return cls(written, Subject.CLAIM, names)
        if len(names) > 1 or _HEADER.fullmatch(names[0].lower()) is None:
            raise ValueError("not the name of a header; hosts, methods and paths belong into an operation of `to`")
        return cls(written, Subject.HEADER, (names[0].lower(),))

    def pattern(self, written: str) -> Pattern:
        """One of `values` or `notValues`. Raises `ValueError`."""
        if self.subject is Subject.PEER:
            return spelling.principal(written)
        if self.subject is not Subject.PRINCIPAL:
            return spelling.text(written)
        if written != ANY:
            raise ValueError("write it as requestPrincipals of a source in `from`, issuer and subject apart")
        return PrincipalPattern(spelling.text(ANY), spelling.text(ANY))
