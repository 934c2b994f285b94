"""How a point stands that a check has looked at, for commands that tell people what to do."""

from __future__ import annotations

from enum import StrEnum


class Grade(StrEnum):
    """BAD: it would not work. WARNING: it works, and should not be left so. UNKNOWN: it cannot be told from here."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"
    UNKNOWN = "unknown"
