"""How the server is doing, for its probes: dead, degraded or good (pure, but for where the facts come from)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Final

from ca.agents.roster import AgentRoster
from ca.api.sessions import SessionBook
from ca.authority.jwt_model import JwtAuthority
from ca.authority.manager import AuthorityManager
from ca.authority.model import Authority, AuthorityKind, AuthorityState
from citadel.clock import Clock
from citadel.errors import CitadelError
from citadel.probes import Check, Health, Readiness

# An issuing authority is renewed at half of its life: with less than a quarter left, renewing has failed for long.
_ISSUER_LEFT: Final = 0.25
_ROOT_LEFT: Final = 0.1


class ServerCondition:
    """Asks each part. `further` are checks of parts that this does not know, such as the store."""

    def __init__(
        self,
        *,
        authorities: AuthorityManager,
        roster: AgentRoster,
        sessions: SessionBook,
        clock: Clock,
        further: Sequence[Callable[[], Check]] = (),
    ) -> None:
        self._authorities = authorities
        self._roster = roster
        self._sessions = sessions
        self._clock = clock
        self._further = further

    def readiness(self) -> Readiness:
        """The answer to `/ready`."""
        return Readiness.of(self._checks())

    def _checks(self) -> Iterator[Check]:
        now = self._clock.now()
        yield self._issuing_check(now)
        for root in self._authorities.authorities():
            if root.kind is AuthorityKind.ROOT and root.state is AuthorityState.ACTIVE:
                yield authority_check("root", root, now=now, least_left=_ROOT_LEFT)
        for key in self._authorities.jwt.authorities():
            if key.state is AuthorityState.ACTIVE:
                yield token_key_check(key, now=now, least_left=_ISSUER_LEFT)
        joined = [agent for agent in self._roster.all().values() if not agent.banned]
        yield agents_check(joined=len(joined), connected=len(self._sessions.newest()))
        for check in self._further:
            yield check()

    def _issuing_check(self, now: datetime) -> Check:
        name = "issuing authority"
        try:
            authority = self._authorities.issuing().authority
        except CitadelError as error:
            return Check(name, Health.DEAD, str(error))
        return authority_check(name, authority, now=now, least_left=_ISSUER_LEFT)


def authority_check(name: str, authority: Authority, *, now: datetime, least_left: float) -> Check:
    """Degraded once less than `least_left` of its life is left, dead at its end."""
    life, left = authority.not_after - authority.not_before, authority.not_after - now
    until = f"until {authority.not_after.isoformat()}"
    if left.total_seconds() <= 0:
        return Check(name, Health.DEAD, f"ended at {authority.not_after.isoformat()}")
    if left < life * least_left:
        return Check(name, Health.DEGRADED, f"{until}, and was not renewed in time")
    return Check(name, Health.GOOD, until)


def token_key_check(key: JwtAuthority, *, now: datetime, least_left: float) -> Check:
    """Degraded near its end and after it: without tokens there are certificates still."""
    until = f"until {key.not_after.isoformat(timespec='seconds')}"
    if key.not_after - now < (key.not_after - key.not_before) * least_left:
        return Check("JWT key", Health.DEGRADED, f"{until}, and was not renewed in time")
    return Check("JWT key", Health.GOOD, until)


def agents_check(*, joined: int, connected: int) -> Check:
    """No agent at all is how a server begins; none of those that have joined is not."""
    health = Health.DEGRADED if joined and not connected else Health.GOOD
    return Check("agents", health, f"{connected} of {joined} connected")


def revocation_check(trouble: str, *, behind: str = "", is_meant: bool = False) -> Check:
    """Degraded while no revocation lists are pushed: what is revoked is then not refused. Not where that is meant.

    So it is where they are `behind`.
    """
    if trouble:
        return Check("revocation", Health.GOOD if is_meant else Health.DEGRADED, f"no lists are pushed: {trouble}")
    if behind:
        return Check("revocation", Health.DEGRADED, behind)
    return Check("revocation", Health.GOOD, "lists are pushed")
