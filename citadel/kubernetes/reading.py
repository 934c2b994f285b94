"""Reading objects of an API server, of which nothing is certain (pure): what is not as it should be is not there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def part(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The mapping of this name, or an empty one."""
    value = found.get(name)
    return value if isinstance(value, Mapping) else {}


def parts(found: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """The mappings in the list of this name."""
    value = found.get(name)
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def text(found: Mapping[str, Any], name: str) -> str:
    """The text of this name, or an empty one."""
    value = found.get(name)
    return value if isinstance(value, str) else ""
