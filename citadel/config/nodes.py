"""A YAML document as nodes that know their lines, without what could give a plain text another meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Protocol

import yaml

from citadel.errors import InvalidArgument, Reason

_NULLS: Final = ("", "~", "null")


class Mark(Protocol):
    """What PyYAML's two kinds of marks have in common."""

    @property
    def line(self) -> int: ...


def compose(path: Path) -> yaml.Node:
    """The document in `path`; an empty one is a mapping without keys. Raises `InvalidArgument` (`config_invalid`)."""
    try:
        document = path.read_bytes()
        _refuse_aliases_and_tags(path, document)
        root = yaml.compose(document, Loader=yaml.BaseLoader)
    except OSError as error:
        raise InvalidArgument(
            Reason.CONFIG_INVALID,
            f"{path}: cannot be read: {error.strerror}",
            fix="name a file that this user may read",
        ) from error
    except yaml.MarkedYAMLError as error:
        if error.context == "while scanning an alias":  # such as a `*` alone, which people mean as a text
            raise _alias_or_tag(path, error.problem_mark) from error
        problem = f"not YAML: {error.problem}"
        if error.context == "expected a single document in the stream":
            problem = "a second document begins here, and a file is read as one"
        raise InvalidArgument(
            Reason.CONFIG_INVALID, f"{place(path, line_of(error.problem_mark))}: {problem}"
        ) from error
    except yaml.YAMLError as error:
        raise InvalidArgument(Reason.CONFIG_INVALID, f"{path}: not YAML: {' '.join(str(error).split())}") from error
    return root or yaml.MappingNode("tag:yaml.org,2002:map", [])


def plain(node: yaml.Node) -> Any:
    """Lists, dictionaries and texts."""
    if isinstance(node, yaml.SequenceNode):
        return [plain(item) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        return {_plain_key(key): plain(value) for key, value in node.value}
    return node.value


def is_null(node: yaml.Node) -> bool:
    """Whether it is a plain `null`, `~` or nothing."""
    return isinstance(node, yaml.ScalarNode) and node.style is None and node.value in _NULLS


def line_of(mark: Mark | None) -> int:
    """Counted from 1; 0 where there is none."""
    return mark.line + 1 if mark is not None else 0


def place(path: Path, line: int) -> str:
    """`file:line`, or the file alone."""
    return f"{path}:{line}" if line else f"{path}"


def _plain_key(node: yaml.Node) -> str:
    return node.value if isinstance(node, yaml.ScalarNode) else "?"


def _refuse_aliases_and_tags(path: Path, document: bytes) -> None:
    """An alias can make a document that has no end; a tag asks for a meaning that a plain text does not have."""
    for event in yaml.parse(document, Loader=yaml.BaseLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
            raise _alias_or_tag(path, event.start_mark)


def _alias_or_tag(path: Path, mark: Mark | None) -> InvalidArgument:
    return InvalidArgument(
        Reason.CONFIG_INVALID,
        f"{place(path, line_of(mark))}: aliases (*) and tags (!) are not taken here; quote a text that begins so",
    )
