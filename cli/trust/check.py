"""One thing that was looked at, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from citadel.grade import Grade


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


class Side(StrEnum):
    """Where something is to be done."""

    A = "A"
    B = "B"
    BOTH = "both"


class Way(StrEnum):
    """Whose certificates who is to believe."""

    BOTH = ""
    A_BELIEVES_B = "A believes B"
    B_BELIEVES_A = "B believes A"

    @property
    def believer(self) -> Side:
        """The one that trusts."""
        return {Way.A_BELIEVES_B: Side.A, Way.B_BELIEVES_A: Side.B}.get(self, Side.BOTH)

    @property
    def peer(self) -> Side:
        """The one that signs."""
        return {Way.A_BELIEVES_B: Side.B, Way.B_BELIEVES_A: Side.A}.get(self, Side.BOTH)


class Verdict(StrEnum):
    """What all of it comes to."""

    WORKS = "works"
    FAILS = "fails"
    UNTOLD = "untold"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was found, and what to do where that is not good."""

    subject: Subject
    way: Way
    grade: Grade
    finding: str
    fix: str = ""
    at: Side = Side.BOTH  # where that is to be done


def verdict(checks: Sequence[Check]) -> Verdict:
    """Whether mutual TLS works in both directions. A clock that cannot be read keeps nobody from an answer."""
    if any(check.grade is Grade.BAD for check in checks):
        return Verdict.FAILS
    untold = any(check.grade is Grade.UNKNOWN and check.subject is not Subject.CLOCK for check in checks)
    return Verdict.UNTOLD if untold else Verdict.WORKS
