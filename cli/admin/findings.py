"""What a check has found, for people and for programs, and how the command ends."""

from __future__ import annotations

from collections.abc import Sequence

from citadel.errors import FailedPrecondition, Reason
from citadel.finding import Finding
from citadel.grade import Grade
from cli.admin.tables import counted, print_table


def print_findings(found: Sequence[Finding]) -> None:
    """A table, in the order in which to read it."""
    print_table(
        ("", "WHAT", "FOUND", "WHAT TO DO"),
        ((each.grade.value, each.subject.value, each.found, each.fix) for each in found),
        none="nothing was looked at",
    )


def warnings_of(found: Sequence[Finding]) -> str:
    """`, with 2 warnings`, or nothing."""
    warned = [each for each in found if each.grade is Grade.WARNING]
    return f", with {counted(len(warned), 'warning')}" if warned else ""


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
