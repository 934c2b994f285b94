"""One thing that a check has looked at, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from citadel.errors import CitadelError, Reason
from citadel.grade import Grade


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found, and what to do where that is not good. One that is bad has its `reason`."""

    subject: StrEnum
    grade: Grade
    found: str
    fix: str = ""
    reason: Reason | None = None


def good(subject: StrEnum, found: str) -> Finding:
    """Nothing to do."""
    return Finding(subject=subject, grade=Grade.GOOD, found=found)


def warning(subject: StrEnum, found: str, fix: str) -> Finding:
    """It works."""
    return Finding(subject=subject, grade=Grade.WARNING, found=found, fix=fix)


def bad(subject: StrEnum, reason: Reason, found: str, fix: str) -> Finding:
    """It does not work."""
    return Finding(subject=subject, grade=Grade.BAD, found=found, fix=fix, reason=reason)


def unknown(subject: StrEnum, found: str) -> Finding:
    """It was not looked at, and why."""
    return Finding(subject=subject, grade=Grade.UNKNOWN, found=found)


def failed(subject: StrEnum, error: CitadelError, fix: str) -> Finding:
    """What came back instead of an answer."""
    return bad(subject, error.reason, error.message, error.fix or fix)


def is_fit(findings: Sequence[Finding]) -> bool:
    """Whether a server would work."""
    return all(each.grade is not Grade.BAD for each in findings)
