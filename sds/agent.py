"""How the agent is doing, for its probes and its explanations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final

from citadel.clock import Clock
from citadel.probes import Check, Health, Readiness
from sds.authz.policy_file import PolicyFile
from sds.holdings import HoldingsFeed
from sds.link.identity import OwnIdentity
from sds.link.link import Link

# The agent renews its own SVID at half of its life: with less than a quarter left, renewing has failed for long.
_IDENTITY_LEFT: Final = 0.25


class AgentCondition:
    """What is known of the agent from its start on. `identity`, `link` and `policies` are None until they exist.

    `kubernetes` tells of the API server, where the settings name one.

    Ready: it has an identity, has heard from the server, and serves. Degraded: the server is away, or some entries have
    no SVID, or policies or issuers' keys are not the newest, or the API server is away; one entry that is refused must
    not take the whole node out of service.
    """

    def __init__(self, *, feed: HoldingsFeed, clock: Clock) -> None:
        self._feed = feed
        self._clock = clock
        self._heard_at: datetime | None = None
        self.identity: OwnIdentity | None = None
        self.link: Link | None = None
        self.policies: PolicyFile | None = None
        self.kubernetes: Callable[[], Check] | None = None

    @property
    def is_connected(self) -> bool:
        """Whether the server would tell of changes now."""
        return self.link is not None and self.link.is_up

    @property
    def heard_at(self) -> datetime | None:
        """When the server was last known to be there, as far as `readiness` was asked; None where it never was."""
        if self.is_connected:
            self._heard_at = self._clock.now()
        return self._heard_at

    def readiness(self) -> Readiness:
        """The answer to `/ready`; asked every second by health, so that `heard_at` is about so exact."""
        return Readiness.of(self._checks())

    def _checks(self) -> Iterator[Check]:
        yield self._identity_check()
        yield self._server_check()
        yield self._svids_check()
        if self.policies is not None:
            yield from self.policies.checks()
        if self.kubernetes is not None:
            yield self.kubernetes()

    def _identity_check(self) -> Check:
        if self.identity is None:
            return Check("identity", Health.DEAD, "not joined yet")
        svid, now = self.identity.current.svid, self._clock.now()
        text = f"{svid.spiffe_id} until {svid.not_after.isoformat()}"
        life = svid.not_after - svid.leaf.not_valid_before_utc
        if svid.not_after - now < life * _IDENTITY_LEFT:
            return Check("identity", Health.DEGRADED, f"{text}, and was not renewed in time")
        return Check("identity", Health.GOOD, text)

    def _server_check(self) -> Check:
        heard_at = self.heard_at
        if self.is_connected:
            return Check("server", Health.GOOD, "connected")
        if self.link is None or not self.link.was_up:
            return Check("server", Health.DEAD, "away, not heard since the start")
        since = f", last heard {heard_at.isoformat(timespec='seconds')}" if heard_at else ""
        return Check("server", Health.DEGRADED, f"away{since}; what is held is served on")

    def _svids_check(self) -> Check:
        now, holdings = self._clock.now(), self._feed.current
        entries = [entry for entry in holdings.entries.values() if not entry.has_expired(now)]
        held = sum(1 for entry in entries if entry.id in holdings.svids)
        text = f"{held} of {len(entries)} entries have one"
        if held == len(entries):
            return Check("svids", Health.GOOD, text)
        return Check("svids", Health.DEGRADED if held else Health.DEAD, text)
