"""Files of entries: YAML or JSON, one entry or many, in the form in which `entry list -o json` shows them.

All that is wrong with a file is said at once, each with its line. Values are read as they are written: no YAML 1.1
surprises such as `on` or `1:30`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import yaml

from citadel.config.types import parse_duration
from citadel.entry import Entry
from citadel.errors import CitadelError, InvalidArgument, Reason
from citadel.selector import Selector
from citadel.spiffe import SpiffeId, TrustDomain
from cli.output import FileRefused

MOST_TOLD: Final = 50
_NULLS: Final = ("", "~", "null")
# Written in C where it was built with it: a file of 10,000 entries is read in two seconds instead of twenty.
_LOADER: Final = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One entry as a file wants it. `lines` says where each of its fields stands, `line` where it begins itself."""

    entry: Entry
    line: int
    lines: Mapping[str, int]


@dataclass(slots=True)
class Problems:
    """What is wrong with a file, to be told together."""

    name: str
    found: list[tuple[int, str, Reason]] = field(default_factory=list)

    def add(self, line: int, text: str, reason: Reason) -> None:
        """Note one."""
        self.found.append((line, text, reason))

    def raise_any(self) -> None:
        """Raise `FileRefused` with the reason of the first, where there is any."""
        if not self.found:
            return
        found = sorted(self.found, key=lambda problem: problem[0])
        told = [f"{self.name}:{line}: {text} ({reason})" for line, text, reason in found[:MOST_TOLD]]
        if len(found) > MOST_TOLD:
            told.append(f"and {len(found) - MOST_TOLD} more")
        raise FileRefused(found[0][2], "\n".join(told), fix="nothing was changed")


def read_documents(name: str, text: bytes) -> list[Document]:
    """The entries of a file called `name`. Raises `InvalidArgument` that names every line that is wrong."""
    problems = Problems(name)
    documents = [document for node in _entries(name, text, problems) if (document := _document(node, problems))]
    problems.raise_any()
    return documents


def _entries(name: str, text: bytes, problems: Problems) -> Iterator[yaml.Node]:
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
                problems.add(_line(event), "aliases (*) and tags (!) are not taken here", Reason.ENTRY_MALFORMED)
                return
        for node in yaml.compose_all(text, Loader=_LOADER):
            yield from _flat(node)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise InvalidArgument(Reason.ENTRY_MALFORMED, f"{name}:{line}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise InvalidArgument(Reason.ENTRY_MALFORMED, f"{name}: not YAML: {' '.join(str(error).split())}") from error


def _flat(node: yaml.Node) -> Iterator[yaml.Node]:
    """The entries of one document: an entry, a list of them, or what `entry list -o json` prints."""
    if _is_null(node):
        return
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
        return
    if isinstance(node, yaml.MappingNode) and len(node.value) == 1:
        key, value = node.value[0]
        if key.value == "entries" and isinstance(value, yaml.SequenceNode):
            yield from value.value
            return
    yield node


def _document(node: yaml.Node, problems: Problems) -> Document | None:
    if not isinstance(node, yaml.MappingNode):
        problems.add(_line(node), "an entry is a map of fields", Reason.ENTRY_MALFORMED)
        return None
    values: dict[str, Any] = {"id": ""}
    lines: dict[str, int] = {}
    before = len(problems.found)
    for key_node, value_node in node.value:
        key, line = str(key_node.value), _line(key_node)
        if key in lines:
            problems.add(line, f"{key} is there twice, first on line {lines[key]}", Reason.ENTRY_MALFORMED)
        elif key not in _FIELDS:
            nearest = difflib.get_close_matches(key, _FIELDS, n=1)
            advice = f"; did you mean {nearest[0]}?" if nearest else ""
            problems.add(line, f"unknown field {key[:100]!r}{advice}", Reason.ENTRY_MALFORMED)
        elif not _is_null(value_node):
            _take(key, value_node, values, problems)
        lines[key] = line
    problems_here = len(problems.found) - before
    for key in ("spiffe_id", "parent_id"):
        if key not in values and not problems_here:
            problems.add(_line(node), f"the entry has no {key}", Reason.ENTRY_MALFORMED)
    if len(problems.found) > before:
        return None
    values.setdefault("selectors", frozenset())
    return Document(entry=Entry(**values), line=_line(node), lines=lines)


def _take(key: str, node: yaml.Node, values: dict[str, Any], problems: Problems) -> None:
    parse = _FIELDS[key]
    if parse is None:
        return
    try:
        values[key] = parse(node)
    except CitadelError as error:
        problems.add(_line(node), f"{key}: {error.message}", error.reason)
    except (ValueError, OverflowError) as error:
        problems.add(_line(node), f"{key}: {error}", Reason.ENTRY_MALFORMED)


def _text(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError("a plain value belongs here")  # noqa: TRY004 - what is wrong is the file's value
    return str(node.value)


def _texts(node: yaml.Node) -> list[str]:
    if not isinstance(node, yaml.SequenceNode):
        raise ValueError("a list belongs here")  # noqa: TRY004 - as above
    return [_text(item) for item in node.value]


def _moment(node: yaml.Node) -> datetime:
    text = _text(node)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.utcoffset() is None:
        raise ValueError(f"{text[:100]!r} is not a time with an offset; write it like 2030-01-31T12:00:00Z")
    return moment.astimezone(UTC)


def _flag(node: yaml.Node) -> bool:
    text = _text(node)
    if text not in ("true", "false"):
        raise ValueError(f"{text[:100]!r} is neither true nor false")
    return text == "true"


def _number(node: yaml.Node) -> int:
    text = _text(node)
    if not text.isdecimal() or len(text) > 18:
        raise ValueError(f"{text[:100]!r} is not a number")
    return int(text)


_FIELDS: Final[Mapping[str, Callable[[yaml.Node], Any] | None]] = {
    "id": _text,
    "spiffe_id": lambda node: SpiffeId.parse(_text(node)),
    "parent_id": lambda node: SpiffeId.parse(_text(node)),
    "selectors": lambda node: frozenset(map(Selector.parse, _texts(node))),
    "x509_svid_ttl": lambda node: parse_duration(_text(node)),
    "jwt_svid_ttl": lambda node: parse_duration(_text(node)),
    "dns_names": lambda node: tuple(_texts(node)),
    "federates_with": lambda node: frozenset(map(TrustDomain.parse, _texts(node))),
    "hint": _text,
    "expires_at": _moment,
    "admin": _flag,
    "downstream": _flag,
    "revision": _number,
    "created_at": None,  # the server's to say
    "origin": _text,  # which the server takes where its entry has it already
}


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style in (None, "") and node.value in _NULLS


def _line(place: Any) -> int:
    """Counted from 1."""
    return int(place.start_mark.line) + 1
