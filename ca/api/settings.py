"""The sections of the server's settings about its doors: `listen`, `advertise`, `limits` and `connections`."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Final

from pydantic import Field

from ca.dns_name import DnsName
from citadel.config.types import Address, AtLeastASecond, Duration, HostPort, ProbesSettings, Settings

_MOST_TOKEN_LIFETIME: Final = timedelta(days=1)


class ListenSettings(ProbesSettings):
    """Where the server listens."""

    bootstrap: Address = HostPort("127.0.0.1", 8443)
    agents: Address = HostPort("127.0.0.1", 8444)
    probes: Address = HostPort("127.0.0.1", 8480)
    admin_socket: Path = Path("/run/citadel/admin.sock")


class AdvertiseSettings(Settings):
    """The addresses that join strings and answers name, where they differ from those listened on.

    `dns_names` stand in the server's certificate, for callers that know it by the name that they reached it under.
    """

    bootstrap: Address | None = None
    agents: Address | None = None
    dns_names: tuple[DnsName, ...] = ()


class LimitSettings(Settings):
    """What one caller may ask. `joins_per_second` holds for each address alone, `svids_per_second` for each agent.

    A child cluster may ask for authorities as often as an address for joins.
    Certificates and tokens are counted apart, so that who asks for many of the one gets the other still. `proxy_calls`
    are those of Istio's proxies that may be under way at once, a quarter of them from one address; `svids_per_second`
    holds for each of their pods.
    """

    batch: int = Field(default=500, ge=1, le=10_000)
    svids_per_second: float = Field(default=100.0, gt=0)
    agent_calls: int = Field(default=16, ge=2, le=1000)
    anonymous_calls: int = Field(default=256, ge=1, le=10_000)
    proxy_calls: int = Field(default=1000, ge=1, le=100_000)
    joins_per_second: float = Field(default=10.0, gt=0)
    token_lifetime: AtLeastASecond = Field(default=timedelta(minutes=10), le=_MOST_TOKEN_LIFETIME)
    silent_streams: int = Field(default=8, ge=1, le=10_000)
    hello_timeout: Duration = Field(default=timedelta(seconds=10), ge=timedelta(milliseconds=10))


class ConnectionSettings(Settings):
    """What one connection may cost. Whoever has no identity may cost less."""

    message_bytes: int = Field(default=8 * 1024 * 1024, ge=1024 * 1024, le=64 * 1024 * 1024)
    anonymous_message_bytes: int = Field(default=256 * 1024, ge=16 * 1024, le=1024 * 1024)
    calls: int = Field(default=1000, ge=10, le=10_000)
    handshake: AtLeastASecond = timedelta(seconds=10)
    anonymous_idle: Duration = Field(default=timedelta(seconds=30), ge=timedelta(milliseconds=10))
