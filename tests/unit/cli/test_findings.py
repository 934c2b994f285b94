"""What a check has found can be read where no terminal folds it, and its last line claims no more than was seen."""

from __future__ import annotations

import sys
from enum import StrEnum

import pytest

from citadel.finding import Finding, good, unknown, warning
from cli.admin.findings import print_findings, verdict_of
from tests.unit.cli.test_tables import Output, plain


class About(StrEnum):
    CLOCK = "clock"
    PODS = "pods"


GOOD, SEEN_NOT = good(About.CLOCK, "the same"), unknown(About.PODS, "not looked at")
WARNED = warning(About.PODS, "a long story: " + "it goes on; " * 30 + "\x1b[2J", "mend it")


def test_what_is_piped_is_a_line_or_two_for_each_and_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_findings([GOOD, WARNED])
    told, [first, second, third] = WARNED.found.replace("\x1b", "\\x1b"), capsys.readouterr().out.splitlines()
    assert first == "good     clock: the same"
    assert second == f"warning  pods: {told}"
    assert third == "         do: mend it"


def test_a_terminal_folds_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    output = Output(is_terminal=True)
    monkeypatch.setattr(sys, "stdout", output)
    print_findings([GOOD, WARNED])
    lines = plain(output.getvalue()).splitlines()
    assert lines[0].split() == ["WHAT", "FOUND", "WHAT", "TO", "DO"]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([GOOD], "it would work"),
        ([GOOD, WARNED], "it would work, with 1 warning"),
        ([GOOD, SEEN_NOT], "nothing that was looked at is bad; 1 thing was not looked at"),
        (
            [SEEN_NOT, WARNED, SEEN_NOT],
            "nothing that was looked at is bad, with 1 warning; 2 things were not looked at",
        ),
    ],
)
def test_it_would_work_is_said_only_where_all_was_looked_at(found: list[Finding], said: str) -> None:
    assert verdict_of(found, "it would work") == said
