"""Policies from their file: refused as a whole, with the lines, where anything in it is wrong."""

from __future__ import annotations

from pathlib import Path

from citadel.access.building import build
from citadel.access.document import PolicyFile
from citadel.access.problems import problems
from citadel.access.rules import Policies
from citadel.config.loader import invalid, load_located


def load_policies(path: Path) -> Policies:
    """The policies in `path`. It reads a file: inside a running loop call it through `asyncio.to_thread`.

    Raises `InvalidArgument` (`config_invalid`) that lists all that is wrong, each with its line.
    """
    located = load_located(path, PolicyFile)
    if found := [located.problem(at, text) for at, text in problems(located.settings)]:
        raise invalid(found)
    return build(located.settings)
