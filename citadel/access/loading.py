"""Policies from their file: refused as a whole, with the lines, where anything in it is wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Final

from citadel.access.building import build
from citadel.access.document import PolicyFile
from citadel.access.doubts import doubts
from citadel.access.problems import problems
from citadel.access.rules import Policies
from citadel.config.loader import invalid, load_located
from citadel.config.nodes import place
from citadel.errors import InvalidArgument, Reason

# At the beginning of a line it is a key of the whole document, of whichever where there are several.
_OF_ISTIO: Final = re.compile(rb"^apiVersion:[ \t]*[\"']?security\.istio\.io/", re.MULTILINE)


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
    _refuse_resources(path)
    located = load_located(path, PolicyFile)
    if found := [located.problem(at, text) for at, text in problems(located.settings)]:
        raise invalid(found)
    doubtful = sorted((located.problem(at, text) for at, text in doubts(located.settings)), key=itemgetter(0))
    return Checked(build(located.settings), [text for _, text in doubtful])


def _refuse_resources(path: Path) -> None:
    """Say of resources for Istio once how they are written here, instead of all that is wrong with them."""
    try:
        document = path.read_bytes()
    except OSError:
        return  # the loader says why
    if (found := _OF_ISTIO.search(document)) is not None:
        line = document.count(b"\n", 0, found.start()) + 1
        raise InvalidArgument(
            Reason.CONFIG_INVALID,
            f"{place(path, line)}: this is a resource for Istio, and a policy "
            "document has no resources: put spec.jwtRules under jwtRules of a policy, and spec.action with spec.rules "
            "as one item under its authorization",
            fix="begin with deploy/authz.yaml; the policy's selectors say at which proxies it holds",
        )
