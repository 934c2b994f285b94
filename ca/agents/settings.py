"""The section `joining` of the server's settings."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from citadel.config.types import Duration, Settings


class X509PopSettings(Settings):
    """Joining with a certificate. `ca_file` holds PEM certificates of authorities, and is read anew for each join."""

    ca_file: Path | None = None


class JoiningSettings(Settings):
    """How agents join beside tokens, and how long after its end an agent's own identity brings it back."""

    x509pop: X509PopSettings = X509PopSettings()
    rejoin_grace: Duration = timedelta(days=7)
