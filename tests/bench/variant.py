"""`citadel` with less of a ledger than it has, to measure what the ledger costs. Never a setting of the product.

Call: `python -m tests.bench.variant null|unchained server run --config FILE`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from unittest.mock import patch

from ca.issuance.ledger import LedgerRow
from ca.store import ledger
from ca.store.ledger import SqlLedger
from cli.entry import citadel


async def _forget(_ledger: SqlLedger, _rows: Sequence[LedgerRow]) -> None:
    """Answer at once, and write nothing."""


def _null() -> None:
    with patch.object(SqlLedger, "append", _forget):
        citadel()


def _unchained() -> None:
    with patch.object(ledger, "record", lambda *_: b""), patch.object(ledger, "link", lambda before, _: before):
        citadel()


_VARIANTS: dict[str, Callable[[], None]] = {"null": _null, "unchained": _unchained}

if __name__ == "__main__":
    _VARIANTS[sys.argv.pop(1)]()
