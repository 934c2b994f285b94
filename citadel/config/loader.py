"""Settings from a YAML file: all that is wrong with it at once, each with line, value and the nearest right name.

Scalars keep the text that was written: no YAML 1.1 surprises such as `on` or `1:30`. The model converts them. Only a
plain empty value, `null` or `~` means "not set".
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Generic, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from citadel.config.nodes import compose, is_null, line_of, place, plain
from citadel.config.secrets import looks_secret, names_secret
from citadel.config.types import Settings
from citadel.errors import InvalidArgument, Reason

S = TypeVar("S", bound=Settings)
Location = tuple[str | int, ...]  # of a setting: keys, and the places in lists
Problem = tuple[int, str]  # a line, and the words that begin with it

_SHOWN_VALUE: Final = 100  # characters of a wrong value that are repeated to the reader
_NOT_SHOWN: Final = " (value not shown: it may be a secret)"
_CLOSE: Final = 0.7  # of difflib's ratio: `form` is taken for `from`, and `ports` not for `paths`
_NO_LIST: Final = ("tuple_type", "list_type")  # pydantic's words for it name types of Python
_PLAIN: Final = re.compile(r"[A-Za-z0-9/][A-Za-z0-9._/-]*")  # in a list of YAML's it is a text without quotes
_LEFT_OUT: Final = object()


@dataclass(frozen=True, slots=True)
class Located(Generic[S]):
    """Settings, and where in the file each of them stands: for rules about several of them together."""

    settings: S
    _path: Path
    _lines: Mapping[Location, int]

    def problem(self, at: Location, text: str) -> Problem:
        """What is wrong with the setting `at`, on its line or on that of the nearest section above it."""
        near = at
        while near and near not in self._lines:
            near = near[:-1]
        line = self._lines.get(near, 0)
        return line, f"{place(self._path, line)}: {_named(at)} {text}"


def load(path: Path, model: type[S]) -> S:
    """Read `path` into `model`; relative paths in it are relative to its folder.

    Raises `InvalidArgument` (`config_invalid`) that lists every problem in line order, as `file:line: what`.
    """
    return load_located(path, model).settings


def load_located(path: Path, model: type[S]) -> Located[S]:
    """As `load`, with the lines."""
    reading = _Reading(path)
    root = compose(path)
    values = reading.section(root, model, ())
    try:
        settings = model.model_validate(values)
    except ValidationError as error:
        reading.take_over(error)
    else:
        if not reading.problems:
            return Located(settings, path, reading.lines())
    raise invalid(reading.problems)


def invalid(problems: Iterable[Problem]) -> InvalidArgument:
    """The refusal of a file, in the order of its lines."""
    return InvalidArgument(Reason.CONFIG_INVALID, "\n".join(text for _, text in sorted(problems, key=itemgetter(0))))


class _Reading:
    """Walks one document along its model and collects problems as (line, text)."""

    def __init__(self, path: Path) -> None:
        self.problems: list[Problem] = []
        self._path = path
        self._nodes: dict[Location, yaml.Node] = {}
        # Where pydantic's own complaint would only repeat one that is already there.
        self._excused: set[Location] = set()
        # Values of fields with `repr=False`: they may hold a secret.
        self._unshown: set[Location] = set()

    def lines(self) -> Mapping[Location, int]:
        """Where each setting stands."""
        return {at: line_of(node.start_mark) for at, node in self._nodes.items()}

    def section(self, node: yaml.Node, model: type[Settings], at: Location) -> dict[str, Any]:
        """The values of a section, without what is wrong with it."""
        fields = _fields(model)
        if not isinstance(node, yaml.MappingNode):
            self._excused.update((at, *((*at, name) for name in fields)))
            self._report(node, f"{_named(at)} is not a section of keys{_shown(node, at)}")
            return {}
        values: dict[str, Any] = {}
        first_lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._report(key_node, "a key is not plain text")
                continue
            key = key_node.value
            here = (*at, key)
            if key in first_lines:
                self._report(key_node, f"duplicate key '{_dotted(here)}', first on line {first_lines[key]}")
            elif key not in fields:
                self._unknown(key_node, value_node, model, here)
            elif (value := self._field(value_node, fields[key], here)) is not _LEFT_OUT:
                values[key] = value
            first_lines.setdefault(key, line_of(key_node.start_mark))
        return values

    def take_over(self, error: ValidationError) -> None:
        """Turn pydantic's problems into ours."""
        for item in error.errors(include_url=False, include_context=False):
            at: Location = item["loc"]
            if at in self._excused:
                continue
            if item["type"] == "missing":
                section = self._nodes.get(at[:-1])
                self._report(section, f"missing key '{_dotted(at)}'")
                continue
            node = self._nearest(at)
            value = _NOT_SHOWN if at in self._unshown else _shown(node, ())
            problem = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
            if item["type"] in _NO_LIST:
                problem = _as_list(node, is_shown=value != _NOT_SHOWN)
            self._report(node, f"{_named(at)} is wrong{value}: {problem}")

    def _field(self, node: yaml.Node, field: FieldInfo, at: Location) -> Any:
        self._nodes[at] = node
        if not field.repr:
            self._unshown.add(at)
        elif self._is_secret(node, at):
            self._excused.add(at[:-1])
            return _LEFT_OUT
        return self._value(node, field.annotation, at)

    def _is_secret(self, node: yaml.Node, at: Location) -> bool:
        if not isinstance(node, yaml.ScalarNode) or not looks_secret(node.value):
            return False
        # What a rule says of a value could repeat it, so no rule gets to see this one.
        self._excused.add(at)
        self._report(node, f"{_named(at)} is wrong{_NOT_SHOWN}: no key or join string belongs here; name its file")
        return True

    def _value(self, node: yaml.Node, annotation: Any, at: Location) -> Any:
        kinds = tuple(_alternatives(annotation))
        section = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Settings)), None)
        item = next((get_args(kind)[0] for kind in kinds if get_origin(kind) in (list, tuple)), None)
        if is_null(node):
            return self._null(node, kinds, at, is_section=section is not None)
        if section is not None and not (section.takes_text and isinstance(node, yaml.ScalarNode)):
            return self.section(node, section, at)
        if Path in kinds and isinstance(node, yaml.ScalarNode):
            return self._path.parent / node.value
        if item is not None and isinstance(node, yaml.SequenceNode):
            return [self._item(each, item, (*at, index)) for index, each in enumerate(node.value)]
        return plain(node)

    def _null(self, node: yaml.Node, kinds: tuple[Any, ...], at: Location, *, is_section: bool) -> Any:
        if type(None) in kinds:
            return None
        if is_section:  # all of its keys are commented out
            return {}
        self._excused.add(at)
        self._report(node, f"{_named(at)} has no value")
        return _LEFT_OUT

    def _item(self, node: yaml.Node, annotation: Any, at: Location) -> Any:
        """One of a list: never left out, since that would move those after it to other places."""
        self._nodes[at] = node
        value = _LEFT_OUT if self._is_secret(node, at) else self._value(node, annotation, at)
        return None if value is _LEFT_OUT else value

    def _unknown(self, key_node: yaml.Node, value_node: yaml.Node, model: type[Settings], at: Location) -> None:
        key, fields = str(at[-1]), _fields(model)
        # A missing key or a broken rule of this section is most likely this very mistake.
        self._excused.add(at[:-1])
        if key in model.not_here:
            self._report(key_node, f"there is no key '{_dotted(at)}'{_shown(value_node, at)}: {model.not_here[key]}")
            return
        nearest = difflib.get_close_matches(key, fields, n=1, cutoff=_CLOSE)
        self._excused.update((*at[:-1], name) for name in nearest)
        advice = f"; did you mean '{nearest[0]}'?" if nearest else f"; known here: {', '.join(fields)}"
        self._report(key_node, f"unknown key '{_dotted(at)}'{_shown(value_node, at)}{advice}")

    def _nearest(self, at: Location) -> yaml.Node | None:
        while at and at not in self._nodes:
            at = at[:-1]
        return self._nodes.get(at)

    def _report(self, node: yaml.Node | None, text: str) -> None:
        line = line_of(node.start_mark) if node is not None else 0
        self.problems.append((line, f"{place(self._path, line)}: {text}"))


def _fields(model: type[Settings]) -> Mapping[str, FieldInfo]:
    """The fields of a section by the keys that people write, which are also what pydantic calls them."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The types that a field may have, out of its unions and annotations."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for argument in get_args(annotation):
            yield from _alternatives(argument)
    else:
        yield annotation


def _shown(node: yaml.Node | None, at: Location) -> str:
    if not isinstance(node, yaml.ScalarNode):
        return ""
    if looks_secret(node.value) or names_secret(_dotted(at)):
        return _NOT_SHOWN
    return f" (value {node.value[:_SHOWN_VALUE]!r})"


def _as_list(node: yaml.Node | None, *, is_shown: bool) -> str:
    if isinstance(node, yaml.MappingNode):
        return "should be a list: begin each of its items with '- '"
    if not (is_shown and isinstance(node, yaml.ScalarNode) and len(node.value) <= _SHOWN_VALUE):
        return "should be a list"
    written = node.value if _PLAIN.fullmatch(node.value) else json.dumps(node.value)
    return f"should be a list: write [{written}]"


def _named(at: Location) -> str:
    return f"'{_dotted(at)}'" if at else "the file"


def _dotted(at: Location) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at).removeprefix(".")
