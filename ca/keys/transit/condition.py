"""What it means for this server's keys how it is with Vault, for probes and people (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from ca.keys.sealing import KeyPurpose
from citadel._wire import admin_pb2
from citadel.config.types import format_duration
from citadel.errors import CitadelError
from citadel.probes import Check, Health

_MEANT: Final[Mapping[KeyPurpose | None, str]] = {
    KeyPurpose.JWT: "no tokens are signed; certificates are",
    KeyPurpose.ROOT: "the root signs no other authority; the one that issues goes on{ends}",
    KeyPurpose.RECORDS: "records are not sealed by a signature",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysCondition:
    """`trouble` is why Vault does nothing now, `since` since when; `concerns` whose key, where it is one alone.

    `are_made_there` where keys are in Vault, which signs then; else it opens and seals them. `lifetime` is what
    certificates get, and `issuer_ends` when the issuing authority ends that signs now.
    """

    are_made_there: bool
    trouble: CitadelError | None
    since: datetime | None
    concerns: KeyPurpose | None = None
    lifetime: timedelta
    issuer_ends: datetime | None

    def check(self, now: datetime) -> Check:
        """As `/ready` says it: workloads keep what they have, so that it is no reason to be taken for dead."""
        if self.trouble is not None:
            return Check("keys", Health.DEGRADED, f"{self._meaning(now)} ({self.trouble.reason})")
        return Check("keys", Health.GOOD, "in Vault" if self.are_made_there else "sealed by Vault")

    def tell(self, status: admin_pb2.VaultStatus, now: datetime) -> None:
        """Add it to what `citadel-cli status` shows of Vault."""
        if self.trouble is not None:
            why = str(self.trouble)
            told = [status.message] if why in status.message else [status.message, why]
            status.message = "; ".join([*told, self._meaning(now)])

    def _meaning(self, now: datetime) -> str:
        ends = f" until {_moment(self.issuer_ends, now)}" if self.issuer_ends is not None else ""
        if self.concerns in _MEANT:
            return _MEANT[self.concerns].format(ends=ends)
        if not self.are_made_there:
            return f"keys that are open sign on{ends}; no others are made or opened"
        # Agents renew at half of a life: what was due when it began has the other half before it.
        first = (self.since or now) + self.lifetime / 2
        begins = "begins to end about" if first > now else "has begun to end about"
        return f"nothing new is issued; workloads keep what they have, which {begins} {_moment(first, now)}"


def _moment(moment: datetime, now: datetime) -> str:
    left = timedelta(seconds=(moment - now) // timedelta(seconds=1))
    told = moment.isoformat(timespec="seconds")
    return f"{told}, in {format_duration(left)}" if left > timedelta(0) else told
