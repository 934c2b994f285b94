"""The section `audit` of the server's settings."""

from __future__ import annotations

from citadel.config.types import AtLeastADay, Settings


class AuditSettings(Settings):
    """How long acts and refusals stay in the audit log; null is for ever."""

    keep: AtLeastADay | None = None
