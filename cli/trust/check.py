"""One thing that was looked at, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Grade(StrEnum):
    """BAD: mutual TLS fails. WARNING: it works, and should not be left so. UNKNOWN: it cannot be told from here."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"
    UNKNOWN = "unknown"


class Subject(StrEnum):
    """What is looked at; the order is that in which people should read."""

    DOMAINS = "trust domains"
    ROOTS = "roots in common"
    AGE = "age of the facts"
    AUTHORITY = "issuing authority"
    BUNDLE = "bundle"
    ROOT = "root"
    CONSTRAINTS = "name constraints"
    PATH_LENGTH = "path length"
    LIFETIMES = "lifetimes"
    PATH = "path"
    CLOCK = "clock"
    FRESHNESS = "bundle is the newest"
    ENTRIES = "entries"
    ENDPOINT = "bundle endpoint"
    FORGERY = "identities of others"


class Way(StrEnum):
    """Whose certificates who is to believe."""

    BOTH = ""
    A_BELIEVES_B = "A believes B"
    B_BELIEVES_A = "B believes A"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was found, and what to do where that is not good."""

    subject: Subject
    way: Way
    grade: Grade
    finding: str
    fix: str = ""


def works(checks: list[Check]) -> bool:
    """Whether mutual TLS works: nothing was found that makes it fail in either direction."""
    return all(check.grade is not Grade.BAD for check in checks)
