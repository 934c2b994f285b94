"""The section `ledger` of the server's settings."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from pydantic import Field

from citadel.config.types import AtLeastASecond, Duration, Settings

_LEAST_KEPT: Final = timedelta(days=1)


class LedgerSettings(Settings):
    """How long expired certificates stay in the ledger (null: for ever); how often both logs' heads are signed."""

    keep: Duration | None = Field(default=timedelta(days=90), ge=_LEAST_KEPT)
    checkpoint_interval: AtLeastASecond = timedelta(minutes=5)
