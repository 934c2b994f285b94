"""Counts since the start: what was issued, and what was refused by reason (invariant 10)."""

from __future__ import annotations

from collections import Counter

import structlog

from citadel.errors import CitadelError, Reason

_log = structlog.get_logger(__name__)


class Tally:
    """Counts, and logs every refusal with its reason. Messages hold no secrets by the contract of `CitadelError`."""

    def __init__(self) -> None:
        self.issued = 0
        self.refused: Counter[Reason] = Counter()

    def count_issued(self, number: int = 1) -> None:
        """Certificates that were answered."""
        self.issued += number

    def count_refused(self, what: str, error: CitadelError) -> None:
        """A refusal, by a call or of one item in a batch."""
        self.refused[error.reason] += 1
        _log.warning("refused", what=what, reason=error.reason.value, error=error.message)
