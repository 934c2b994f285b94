"""The settings of `citadel server`. `deploy/server.yaml` shows each with its meaning."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Final, Self

from pydantic import Field, model_validator

from citadel.config.types import Address, Duration, HostPort, LogSettings, Settings, TrustDomainName

_LEAST_LEAF: Final = timedelta(seconds=1)


class ListenSettings(Settings):
    """Where the server listens. `probes` serves `/live` and `/ready` and must be a loopback address."""

    bootstrap: Address = HostPort("127.0.0.1", 8443)
    agents: Address = HostPort("127.0.0.1", 8444)
    probes: Address = HostPort("127.0.0.1", 8480)
    admin_socket: Path = Path("/run/citadel/admin.sock")


class AdvertiseSettings(Settings):
    """The addresses that join strings and answers name, where they differ from those listened on."""

    bootstrap: Address | None = None
    agents: Address | None = None


class KeySettings(Settings):
    """Where the key-encryption key (32 bytes, base64) comes from: a file of mode 0600, or an environment variable."""

    kek_file: Path | None = None
    kek_env: str | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.kek_file is None) == (self.kek_env is None):
            raise ValueError("set exactly one of kek_file and kek_env (make a key with `openssl rand -base64 32`)")
        return self


class AuthoritySettings(Settings):
    """Lifetimes of the self-signed root and of the issuing authorities under it."""

    root_lifetime: Duration = timedelta(days=365)
    issuer_lifetime: Duration = timedelta(days=7)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if not timedelta(0) < self.issuer_lifetime <= self.root_lifetime:
            raise ValueError("issuer_lifetime must be more than nothing and at most root_lifetime")
        return self


class SvidSettings(Settings):
    """Lifetimes of leaves. An entry may ask for less or more than the default, never for more than the cap."""

    default_lifetime: Duration = timedelta(hours=1)
    max_lifetime: Duration = timedelta(hours=24)
    agent_lifetime: Duration = timedelta(hours=1)
    backdate: Duration = timedelta(seconds=10)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if not _LEAST_LEAF <= self.default_lifetime <= self.max_lifetime:
            raise ValueError("default_lifetime must be at least 1s and at most max_lifetime")
        if not _LEAST_LEAF <= self.agent_lifetime <= self.max_lifetime:
            raise ValueError("agent_lifetime must be at least 1s and at most max_lifetime")
        return self


class LimitSettings(Settings):
    """What one caller may ask at once."""

    batch: int = Field(default=500, ge=1, le=10_000)
    joins_per_second: float = Field(default=10.0, gt=0)
    token_lifetime: Duration = timedelta(minutes=10)


class ServerSettings(Settings):
    """All of `server.yaml`. `store_url` defaults to SQLite in `data_dir`."""

    trust_domain: TrustDomainName
    data_dir: Path
    store_url: str | None = None
    listen: ListenSettings = ListenSettings()
    advertise: AdvertiseSettings = AdvertiseSettings()
    keys: KeySettings
    authorities: AuthoritySettings = AuthoritySettings()
    svids: SvidSettings = SvidSettings()
    limits: LimitSettings = LimitSettings()
    log: LogSettings = LogSettings()
