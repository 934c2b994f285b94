"""The SPIFFE checklist beside the tests that show each of its lines. `python -m tests.conformance` prints it.

A line is shown by every test that carries `@pytest.mark.spec("LINE")`. The incubating parts of the standard (WIT-SVID,
the broker) are not listed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

import pytest

_CHECKLIST: Final = Path(__file__).with_name("checklist.txt")

# Lines that nothing shows yet, and why. A test sees to it that none stands here that a test shows.
_NOT_YET: Final[Mapping[str, str]] = {
    "JWT-24": "nothing here sends a token to a service",
    "FED-10": "whose certificate an endpoint of https_web shows is its operator's choice",
}


class Verdict(StrEnum):
    """What is known of a line."""

    SHOWN = "shown"
    COLLECTED = "has tests"
    FAILED = "FAILED"
    NOT_YET = "not yet"
    MISSING = "MISSING"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the checklist. `tests` are the functions that show it, with their files."""

    line: str
    title: str
    verdict: Verdict
    tests: tuple[str, ...] = ()
    why: str = ""


@dataclass(slots=True, eq=False)  # pytest keeps its plugins in sets
class Witness:
    """A pytest plugin that notes which tests carry which lines, and how they ended."""

    tests: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    failed: set[str] = field(default_factory=set)
    passed: set[str] = field(default_factory=set)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keep only the tests that show a line."""
        showing = [item for item in items if list(item.iter_markers("spec"))]
        for item in showing:
            for mark in item.iter_markers("spec"):
                for line in mark.args:
                    self.tests[line].add(_function(item.nodeid))
        config.hook.pytest_deselected(items=[item for item in items if item not in set(showing)])
        items[:] = showing

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how a test ended; one that is skipped shows nothing."""
        if report.failed:
            self.failed.add(_function(report.nodeid))
        elif report.when == "call" and report.passed:
            self.passed.add(_function(report.nodeid))


def titles() -> Mapping[str, str]:
    """Every line and what it is about."""
    lines = _CHECKLIST.read_text("utf-8").splitlines()
    return {line: title for line, _, title in (text.partition(" ") for text in lines)}


def rows(witness: Witness, *, has_run: bool) -> Iterator[Row]:
    """The checklist, line by line."""
    for line, title in titles().items():
        tests = tuple(sorted(witness.tests.get(line, ())))
        yield Row(
            line=line,
            title=title,
            verdict=_verdict(line, tests, witness, has_run=has_run),
            tests=tests,
            why=_NOT_YET.get(line, ""),
        )


def contradictions(witness: Witness) -> Sequence[str]:
    """What the table would say wrongly: lines that are not there, are both shown and excused, or neither."""
    known = titles()
    return [
        *(f"{line}: no such line" for line in sorted((witness.tests.keys() | _NOT_YET.keys()) - known.keys())),
        *(f"{line}: shown, and excused" for line in known if witness.tests.get(line) and line in _NOT_YET),
        *(
            f"{line}: neither shown nor excused"
            for line in known
            if not witness.tests.get(line) and line not in _NOT_YET
        ),
    ]


def _verdict(line: str, tests: Sequence[str], witness: Witness, *, has_run: bool) -> Verdict:
    if not tests:
        return Verdict.NOT_YET if line in _NOT_YET else Verdict.MISSING
    if not has_run:
        return Verdict.COLLECTED
    return Verdict.SHOWN if set(tests) <= witness.passed - witness.failed else Verdict.FAILED


def _function(node_id: str) -> str:
    return node_id.partition("[")[0]
