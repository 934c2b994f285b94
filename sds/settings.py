"""The settings of `citadel agent`. `deploy/agent.yaml` shows each with its meaning."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from citadel.config.types import (
    Address,
    Duration,
    HostPort,
    LogSettings,
    LoopbackAddress,
    Settings,
    TrustDomainName,
)

# Less would keep a core busy while the server is away.
_LEAST_WAIT: Final = timedelta(milliseconds=10)


class JoinSettings(Settings):
    """How the agent first comes to an identity. Not needed once it has one in `data_dir`.

    The join string is a secret: it is read from a file or from the environment variable `CITADEL_JOIN_STRING`, never
    from the command line, where every user of the machine could read it.
    """

    string_file: Path | None = None
    bundle_file: Path | None = None
    insecure_bootstrap: bool = False


class ReconnectSettings(Settings):
    """Backoff towards the server: exponential with full jitter, from `initial` up to `maximum`."""

    initial: Duration = Field(default=timedelta(milliseconds=200), ge=_LEAST_WAIT)
    maximum: Duration = timedelta(seconds=5)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.maximum < self.initial:
            raise ValueError("maximum must be at least initial")
        return self


class AgentSettings(Settings):
    """All of `agent.yaml`. `server` overrides the address that was learnt when joining."""

    trust_domain: TrustDomainName
    data_dir: Path
    socket: Path = Path("/run/citadel/agent.sock")
    server: Address | None = None
    join: JoinSettings = JoinSettings()
    reconnect: ReconnectSettings = ReconnectSettings()
    workload_key: Literal["ec-p256", "ec-p384", "rsa-2048"] = "ec-p256"
    probes: LoopbackAddress = HostPort("127.0.0.1", 8481)
    log: LogSettings = LogSettings()
