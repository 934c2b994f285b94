"""How it is with Vault, for probes, metrics and people (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from citadel._wire import admin_pb2
from citadel.errors import CitadelError
from citadel.probes import Check, Health
from citadel.wire import to_timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultCondition:
    """`worry` is what somebody should look at, `since` since when. `keys` is what Vault does for this server's keys."""

    address: str
    login: str
    keys: str = ""
    worry: CitadelError | None = None
    since: datetime | None = None
    token_until: datetime | None = None

    def status(self) -> admin_pb2.VaultStatus:
        """As `citadel-cli status` shows it."""
        bad = self.worry is not None
        return admin_pb2.VaultStatus(
            address=self.address,
            login=self.login,
            good=not bad,
            reason=self.worry.reason.value if self.worry is not None else "",
            message=str(self.worry) if self.worry is not None else "",
            since=to_timestamp(self.since) if bad and self.since is not None else None,
            token_until=to_timestamp(self.token_until) if self.token_until is not None else None,
            keys=self.keys,
        )

    def check(self) -> Check:
        """As `/ready` says it: what was issued goes on, so that it is no reason to be taken for dead."""
        if self.worry is None:
            return Check("vault", Health.GOOD, self.login)
        return Check("vault", Health.DEGRADED, f"{self.worry} ({self.worry.reason})")
