"""Settings from a YAML file: all that is wrong with it at once, each with line, value and the nearest right name.

Scalars keep the text that was written: no YAML 1.1 surprises such as `on` or `1:30`. The model converts them. Only a
plain empty value, `null` or `~` means "not set".
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Protocol, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from citadel.config.secrets import looks_secret, names_secret
from citadel.config.types import Settings
from citadel.errors import InvalidArgument, Reason

S = TypeVar("S", bound=Settings)
_Location = tuple[str | int, ...]

_NULLS: Final = ("", "~", "null")
_SHOWN_VALUE: Final = 100  # characters of a wrong value that are repeated to the reader
_NOT_SHOWN: Final = " (value not shown: it may be a secret)"


def load(path: Path, model: type[S]) -> S:
    """Read `path` into `model`; relative paths in it are relative to its folder.

    Raises `InvalidArgument` (`config_invalid`) that lists every problem in line order, as `file:line: what`.
    """
    reading = _Reading(path)
    root = _compose(path)
    values = reading.section(root, model, ())
    try:
        settings = model.model_validate(values)
    except ValidationError as error:
        reading.take_over(error)
    else:
        if not reading.problems:
            return settings
    lines = [text for _, text in sorted(reading.problems, key=lambda problem: problem[0])]
    raise InvalidArgument(Reason.CONFIG_INVALID, "\n".join(lines))


def _compose(path: Path) -> yaml.Node:
    try:
        document = path.read_bytes()
        _refuse_aliases_and_tags(path, document)
        root = yaml.compose(document, Loader=yaml.BaseLoader)
    except OSError as error:
        raise InvalidArgument(
            Reason.CONFIG_INVALID, f"{path}: cannot be read: {error.strerror}", fix="name the file with --config"
        ) from error
    except yaml.MarkedYAMLError as error:
        place = _place(path, _line(error.problem_mark))
        raise InvalidArgument(Reason.CONFIG_INVALID, f"{place}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise InvalidArgument(Reason.CONFIG_INVALID, f"{path}: not YAML: {' '.join(str(error).split())}") from error
    return root or yaml.MappingNode("tag:yaml.org,2002:map", [])


def _refuse_aliases_and_tags(path: Path, document: bytes) -> None:
    """An alias can make a document that has no end; a tag asks for a meaning that a plain text does not have."""
    for event in yaml.parse(document, Loader=yaml.BaseLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
            place = _place(path, _line(event.start_mark))
            raise InvalidArgument(Reason.CONFIG_INVALID, f"{place}: aliases (*) and tags (!) are not taken here")


class _Reading:
    """Walks one document along its model and collects problems as (line, text)."""

    def __init__(self, path: Path) -> None:
        self.problems: list[tuple[int, str]] = []
        self._path = path
        self._nodes: dict[_Location, yaml.Node] = {}
        # Where pydantic's own complaint would only repeat one that is already there.
        self._excused: set[_Location] = set()
        # Values of fields with `repr=False`: they may hold a secret.
        self._unshown: set[_Location] = set()

    def section(self, node: yaml.Node, model: type[Settings], at: _Location) -> dict[str, Any]:
        """The values of a section, without what is wrong with it."""
        if not isinstance(node, yaml.MappingNode):
            self._excused.update((at, *((*at, name) for name in model.model_fields)))
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
            elif key not in model.model_fields:
                self._unknown(key_node, value_node, model, here)
            else:
                self._nodes[here] = value_node
                self._field(value_node, model.model_fields[key], here, values)
            first_lines.setdefault(key, _line(key_node.start_mark))
        return values

    def take_over(self, error: ValidationError) -> None:
        """Turn pydantic's problems into ours."""
        for item in error.errors(include_url=False, include_context=False):
            at: _Location = item["loc"]
            if at in self._excused:
                continue
            if item["type"] == "missing":
                section = self._nodes.get(at[:-1])
                self._report(section, f"missing key '{_dotted(at)}'")
                continue
            node = self._nearest(at)
            problem = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
            value = _NOT_SHOWN if at in self._unshown else _shown(node, ())
            self._report(node, f"{_named(at)} is wrong{value}: {problem}")

    def _field(self, node: yaml.Node, field: FieldInfo, at: _Location, values: dict[str, Any]) -> None:
        if not field.repr:
            self._unshown.add(at)
        elif isinstance(node, yaml.ScalarNode) and looks_secret(node.value):
            # What a rule says of a value could repeat it, so no rule gets to see this one.
            self._excused.update((at, at[:-1]))
            self._report(node, f"{_named(at)} is wrong{_NOT_SHOWN}: no key or join string belongs here; name its file")
            return
        self._value(node, field.annotation, at, values)

    def _value(self, node: yaml.Node, annotation: Any, at: _Location, values: dict[str, Any]) -> None:
        kinds = tuple(_alternatives(annotation))
        key = str(at[-1])
        section = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Settings)), None)
        if _is_null(node):
            if type(None) in kinds:
                values[key] = None
            elif section is not None:  # all of its keys are commented out
                values[key] = {}
            else:
                self._excused.add(at)
                self._report(node, f"{_named(at)} has no value")
        elif section is not None:
            values[key] = self.section(node, section, at)
        elif Path in kinds and isinstance(node, yaml.ScalarNode):
            values[key] = self._path.parent / node.value
        else:
            values[key] = _plain(node)

    def _unknown(self, key_node: yaml.Node, value_node: yaml.Node, model: type[Settings], at: _Location) -> None:
        nearest = difflib.get_close_matches(str(at[-1]), model.model_fields, n=1)
        # A missing key or a broken rule of this section is most likely this very mistake.
        self._excused.add(at[:-1])
        self._excused.update((*at[:-1], name) for name in nearest)
        advice = f"; did you mean '{nearest[0]}'?" if nearest else f"; known here: {', '.join(model.model_fields)}"
        self._report(key_node, f"unknown key '{_dotted(at)}'{_shown(value_node, at)}{advice}")

    def _nearest(self, at: _Location) -> yaml.Node | None:
        while at and at not in self._nodes:
            at = at[:-1]
        return self._nodes.get(at)

    def _report(self, node: yaml.Node | None, text: str) -> None:
        line = _line(node.start_mark) if node is not None else 0
        self.problems.append((line, f"{_place(self._path, line)}: {text}"))


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


def _plain(node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        return {_plain_key(key): _plain(value) for key, value in node.value}
    return node.value


def _plain_key(node: yaml.Node) -> str:
    return node.value if isinstance(node, yaml.ScalarNode) else "?"


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style is None and node.value in _NULLS


def _shown(node: yaml.Node | None, at: _Location) -> str:
    if not isinstance(node, yaml.ScalarNode):
        return ""
    if looks_secret(node.value) or names_secret(_dotted(at)):
        return _NOT_SHOWN
    return f" (value {node.value[:_SHOWN_VALUE]!r})"


class _Mark(Protocol):
    """What PyYAML's two kinds of marks have in common."""

    @property
    def line(self) -> int: ...


def _line(mark: _Mark | None) -> int:
    """Counted from 1; 0 where there is none."""
    return mark.line + 1 if mark is not None else 0


def _place(path: Path, line: int) -> str:
    return f"{path}:{line}" if line else f"{path}"


def _named(at: _Location) -> str:
    return f"'{_dotted(at)}'" if at else "the file"


def _dotted(at: _Location) -> str:
    return ".".join(str(part) for part in at)
