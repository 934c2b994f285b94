"""How it is with the credentials of a cluster's gateways, for metrics and people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from citadel._wire import admin_pb2

STATES: Final = ("good", "behind", "bad", "missing")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayCondition:
    """How many of those that are wanted are in each of `STATES`."""

    counts: Mapping[str, int]

    def status(self) -> admin_pb2.GatewayStatus:
        """As `citadel-cli status` shows it."""
        return admin_pb2.GatewayStatus(**self.counts)
