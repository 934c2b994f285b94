"""Selectors: facts about a caller that an attestor saw itself, such as `unix:uid:1000`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from citadel.errors import InvalidArgument, Reason

MAX_SELECTOR_BYTES: Final = 4096
_TYPE: Final = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True, order=True)
class Selector:
    """`type` names the attestor (`unix`, `node`), `value` is what it saw (`uid:1000`)."""

    type: str
    value: str

    def __post_init__(self) -> None:
        text = f"{self.type}:{self.value}"
        if _TYPE.fullmatch(self.type) is None:
            raise _bad(text, "needs a lowercase type before the first ':'")
        if not self.value or not self.value.isprintable():
            raise _bad(text, "has an empty or unprintable value")
        if len(text.encode()) > MAX_SELECTOR_BYTES:
            raise _bad(text, f"is longer than {MAX_SELECTOR_BYTES} bytes")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `type:value`; the value may hold further colons."""
        kind, _, value = text.partition(":")
        return cls(kind, value)

    @property
    def kind(self) -> str:
        """What it is about: `unix:uid` of `unix:uid:1000`."""
        return f"{self.type}:{self.value.partition(':')[0]}"

    def __str__(self) -> str:
        return f"{self.type}:{self.value}"


def _bad(text: str, problem: str) -> InvalidArgument:
    return InvalidArgument(
        Reason.ENTRY_BAD_SELECTOR, f"selector {text[:200]!r} {problem}", fix="write it like 'unix:uid:1000'"
    )
