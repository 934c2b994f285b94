"""The section `audit` of the server's settings."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from pydantic import Field

from citadel.config.types import Duration, Settings

_LEAST_KEPT: Final = timedelta(days=1)


class AuditSettings(Settings):
    """How long acts and refusals stay in the audit log; null is for ever."""

    keep: Duration | None = Field(default=None, ge=_LEAST_KEPT)
