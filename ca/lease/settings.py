"""The section `lease` of the server's settings."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from citadel.config.types import Duration, Settings


class LeaseSettings(Settings):
    """How long the lease of the store lasts when it is not renewed, which is how soon a standby takes over."""

    duration: Duration = Field(default=timedelta(seconds=3), ge=timedelta(seconds=1), le=timedelta(minutes=1))
