"""Policies from their file: refused as a whole, with the lines, where anything in it is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

from citadel.access.building import build
from citadel.access.document import PolicyFile
from citadel.access.doubts import doubts
from citadel.access.problems import problems
from citadel.access.rules import Policies
from citadel.config.loader import invalid, load_located


@dataclass(frozen=True, slots=True)
class Checked:
    """Policies that can be used, and what may not be meant as it is written: `file:line: what`, in line order."""

    policies: Policies
    doubts: Sequence[str]


def load_policies(path: Path) -> Policies:
    """The policies in `path`. It reads a file: inside a running loop call it through `asyncio.to_thread`.

    Raises `InvalidArgument` (`config_invalid`) that lists all that is wrong, each with its line.
    """
    return check_policies(path).policies


def check_policies(path: Path) -> Checked:
    """As `load_policies`, with what may not be meant."""
    located = load_located(path, PolicyFile)
    if found := [located.problem(at, text) for at, text in problems(located.settings)]:
        raise invalid(found)
    doubtful = sorted((located.problem(at, text) for at, text in doubts(located.settings)), key=itemgetter(0))
    return Checked(build(located.settings), [text for _, text in doubtful])
