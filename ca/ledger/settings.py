"""The section `ledger` of the server's settings."""

from __future__ import annotations

from datetime import timedelta

from citadel.config.types import AtLeastADay, AtLeastASecond, Settings


class LedgerSettings(Settings):
    """How long expired certificates stay in the ledger (null: for ever); how often both logs' heads are signed."""

    keep: AtLeastADay | None = timedelta(days=90)
    checkpoint_interval: AtLeastASecond = timedelta(minutes=5)
