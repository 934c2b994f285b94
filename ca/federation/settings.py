"""The section `federation` of the server's settings."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from citadel.config.types import Address, Duration, Settings


class Profile(StrEnum):
    """How a bundle endpoint proves that it is the right one (SPIFFE_Federation.md section 5.2)."""

    HTTPS_WEB = "https_web"
    HTTPS_SPIFFE = "https_spiffe"


class FederationSettings(Settings):
    """Where the own bundle is served to other trust domains, and what is believed of theirs.

    `listen` null: it is not served. `https_web` shows the certificate in these files, `https_spiffe` the server's own
    SVID. `refresh_hint` is how often others are to look, and a third of how long a new root waits at least until it
    signs. `ca_file` holds the authorities by which endpoints of `https_web` are believed; null: those of the system.
    """

    listen: Address | None = None
    profile: Profile = Profile.HTTPS_SPIFFE
    certificate_file: Path | None = None
    key_file: Path | None = None
    refresh_hint: Duration = Field(default=timedelta(minutes=5), ge=timedelta(seconds=1), le=timedelta(days=1))
    ca_file: Path | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        files = (self.certificate_file, self.key_file)
        if self.listen is not None and self.profile is Profile.HTTPS_WEB and None in files:
            raise ValueError("https_web needs certificate_file and key_file too")
        if self.profile is Profile.HTTPS_SPIFFE and files != (None, None):
            raise ValueError("https_spiffe shows the server's own certificate: leave certificate_file and key_file out")
        return self
