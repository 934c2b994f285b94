"""Label selectors as kubectl takes them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_PREFIX: Final = r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?/"
_KEY: Final = re.compile(rf"(?:{_PREFIX})?{_NAME}")
_VALUE: Final = re.compile(_NAME)
_ANY_KEY: Final = r"(?P<key>[^\s!=,()]+)"
_EQUAL: Final = re.compile(rf"{_ANY_KEY}\s*(?P<how>!=|==|=)\s*(?P<value>[^\s!=,()]*)")
_IN: Final = re.compile(rf"{_ANY_KEY}\s+(?P<how>in|notin)\s*\((?P<values>[^()]*)\)")
_THERE: Final = re.compile(rf"(?P<how>!?)\s*{_ANY_KEY}")
_COMMA: Final = re.compile(r",(?![^(]*\))")  # between requirements, and not within a set


@dataclass(frozen=True, slots=True)
class _Requirement:
    """`key` has one of `values`, or any where those are None; or, `negated`, not so."""

    key: str
    values: frozenset[str] | None
    negated: bool

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        fits = value is not None and (self.values is None or value in self.values)
        return fits is not self.negated


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """Fits labels that meet all requirements. As in Kubernetes `x!=a` and `x notin (a)` fit what has no `x` as well."""

    requirements: tuple[_Requirement, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `app=web,tier in (a,b),!legacy`; empty fits everything. Raises `ValueError`, naming the part."""
        if not text.strip():
            return cls()
        return cls(tuple(_requirement(part.strip()) for part in _COMMA.split(text)))

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether these labels fit."""
        return all(requirement.matches(labels) for requirement in self.requirements)


def _requirement(part: str) -> _Requirement:
    if found := _EQUAL.fullmatch(part):
        values = frozenset({_value(found["value"])}) if found["value"] else frozenset({""})
        return _Requirement(_key(found["key"]), values, negated=found["how"] == "!=")
    if found := _IN.fullmatch(part):
        values = frozenset(_value(each.strip()) for each in found["values"].split(","))
        return _Requirement(_key(found["key"]), values, negated=found["how"] == "notin")
    if found := _THERE.fullmatch(part):
        return _Requirement(_key(found["key"]), None, negated=found["how"] == "!")
    raise ValueError(
        f"{part[:100]!r} is no part of a label selector; there are a=b, a==b, a!=b, a in (b,c), a notin (b,c), a and !a"
    )


def _key(text: str) -> str:
    if _KEY.fullmatch(text) is None:
        raise ValueError(f"{text[:100]!r} is not the key of a label, such as app or example.org/app")
    return text


def _value(text: str) -> str:
    if _VALUE.fullmatch(text) is None:
        raise ValueError(f"{text[:100]!r} is not the value of a label")
    return text
