"""What it means for this server's keys how it is with Vault, for probes and people (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from citadel._wire import admin_pb2
from citadel.config.types import format_duration
from citadel.errors import CitadelError
from citadel.probes import Check, Health


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysCondition:
    """`trouble` is why Vault does nothing now, `since` since when.

    `are_made_there` where keys are in Vault, which signs then; else it opens and seals them. `lifetime` is what
    certificates get, and `issuer_ends` when the issuing authority ends that signs now.
    """

    are_made_there: bool
    trouble: CitadelError | None
    since: datetime | None
    lifetime: timedelta
    issuer_ends: datetime | None

    def check(self, now: datetime) -> Check:
        """As `/ready` says it: workloads keep what they have, so that it is no reason to be taken for dead."""
        text = self.text(now)
        return Check("keys", Health.DEGRADED if text else Health.GOOD, text)

    def tell(self, status: admin_pb2.VaultStatus, now: datetime) -> None:
        """Add it to what `citadel-cli status` shows of Vault."""
        if self.trouble is not None:
            status.message = f"{status.message}; {self._meaning(now)}"

    def text(self, now: datetime) -> str:
        """What is wrong and until when it lasts; "" where nothing is."""
        return f"{self._meaning(now)} ({self.trouble.reason})" if self.trouble is not None else ""

    def _meaning(self, now: datetime) -> str:
        if not self.are_made_there:
            ends = f" until {_moment(self.issuer_ends, now)}" if self.issuer_ends is not None else ""
            return f"keys that are open sign on{ends}; no others are made or opened"
        # Agents renew at half of a life: what was due when it began has the other half before it.
        first = (self.since or now) + self.lifetime / 2
        ends = "begins to end about" if first > now else "has begun to end about"
        return f"nothing new is issued; workloads keep what they have, which {ends} {_moment(first, now)}"


def _moment(moment: datetime, now: datetime) -> str:
    left = timedelta(seconds=(moment - now) // timedelta(seconds=1))
    told = moment.isoformat(timespec="seconds")
    return f"{told}, in {format_duration(left)}" if left > timedelta(0) else told
