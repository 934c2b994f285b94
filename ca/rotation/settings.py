"""The section `rotation` of the server's settings."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from citadel.config.types import Duration, Settings


class RotationSettings(Settings):
    """When authorities are rotated by themselves, as shares of their lives; and how gently.

    `window` is what renewing all SVIDs is spread over, `margin` how long a proxy is given between its acknowledgement
    and the first use of what it acknowledged. Roots are not rotated by themselves where `root_at` is null.
    """

    root_at: float | None = Field(default=0.5, gt=0, lt=1)
    issuer_at: float = Field(default=0.5, gt=0, lt=1)
    jwt_at: float = Field(default=0.5, gt=0, lt=1)
    window: Duration = timedelta(minutes=5)
    margin: Duration = Field(default=timedelta(seconds=2), ge=timedelta(milliseconds=500))
