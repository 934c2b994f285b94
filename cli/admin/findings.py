"""What a check has found, for people and for programs, and how the command ends."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from citadel.errors import FailedPrecondition, Reason
from citadel.finding import Finding
from citadel.grade import Grade
from cli.admin.tables import counted, print_table
from cli.output import echo, printable


def print_findings(found: Sequence[Finding]) -> None:
    """In the order in which to read it: a table, or where no terminal folds its columns a line or two for each."""
    if not sys.stdout.isatty():
        for each in found:
            echo(f"{each.grade.value:<8} {each.subject.value}: {printable(each.found)}")
            if each.fix:
                echo(f"         do: {printable(each.fix)}")
        return
    print_table(
        ("", "WHAT", "FOUND", "WHAT TO DO"),
        ((each.grade.value, each.subject.value, each.found, each.fix) for each in found),
        none="nothing was looked at",
    )


def warnings_of(found: Sequence[Finding]) -> str:
    """`, with 2 warnings`, or nothing."""
    warned = [each for each in found if each.grade is Grade.WARNING]
    return f", with {counted(len(warned), 'warning')}" if warned else ""


def verdict_of(found: Sequence[Finding], works: str) -> str:
    """`works` where everything was looked at, and no more than was seen otherwise."""
    blind = [each for each in found if each.grade is Grade.UNKNOWN]
    if not blind:
        return works + warnings_of(found)
    unseen = "was" if len(blind) == 1 else "were"
    return (
        f"nothing that was looked at is bad{warnings_of(found)}; {counted(len(blind), 'thing')} {unseen} not looked at"
    )


def plain_finding(finding: Finding) -> dict[str, str | None]:
    """For JSON."""
    return {
        "subject": finding.subject.name.lower(),
        "grade": finding.grade.value,
        "finding": finding.found,
        "fix": finding.fix,
        "reason": finding.reason,
    }


def conclude(found: Sequence[Finding], *, who: str, otherwise: Reason) -> None:
    """End with an error where `who` would not work; the first finding has the cause, others may follow from it."""
    bad = [each for each in found if each.grade is Grade.BAD]
    if bad:
        raise FailedPrecondition(
            bad[0].reason or otherwise,
            f"{who} would not work: {counted(len(bad), 'finding')}"
            f" ({', '.join(dict.fromkeys(each.subject.value for each in bad))})",
            fix=bad[0].fix if len(bad) == 1 else "do what is said above for each finding that is bad",
        )
