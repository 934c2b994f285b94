"""How the agent is doing, for its probes."""

from __future__ import annotations

from citadel.clock import Clock
from citadel.probes import Readiness
from sds.holdings import HoldingsFeed
from sds.link.identity import OwnIdentity
from sds.link.link import Link


class AgentCondition:
    """What is known of the agent from its start on. `identity` and `link` are None until they exist.

    Ready: it has an identity, has heard from the server, and serves. Degraded: the server is away, or some entries have
    no SVID; one entry that is refused must not take the whole node out of service.
    """

    def __init__(self, *, feed: HoldingsFeed, clock: Clock) -> None:
        self._feed = feed
        self._clock = clock
        self.identity: OwnIdentity | None = None
        self.link: Link | None = None

    def readiness(self) -> Readiness:
        """The answer to `/ready`."""
        now, holdings = self._clock.now(), self._feed.current
        entries = [entry for entry in holdings.entries.values() if not entry.has_expired(now)]
        held = sum(1 for entry in entries if entry.id in holdings.svids)
        is_up = self.link is not None and self.link.is_up
        was_up = self.link is not None and self.link.was_up
        checks = {
            "identity": self._identity_check(),
            "server": "connected" if is_up else "away",
            "svids": f"{held} of {len(entries)} entries have one",
        }
        return Readiness(
            ready=self.identity is not None and was_up and (held > 0 or not entries),
            degraded=not is_up or held < len(entries),
            checks=checks,
        )

    def _identity_check(self) -> str:
        if self.identity is None:
            return "not joined yet"
        svid = self.identity.current.svid
        return f"{svid.spiffe_id} until {svid.not_after.isoformat()}"
