"""The most likely answer to "why do I get nothing", in words for people."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verdict:
    """One plain sentence, and what to do; `is_good` where nothing stands in the way."""

    answer: str
    fix: str = ""
    is_good: bool = False
