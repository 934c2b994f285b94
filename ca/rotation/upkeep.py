"""How time starts rotations: authorities are renewed by themselves, at the last moment whatever stands in the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from ca.audit.model import Actor, ActorKind
from ca.audit.trail import Acts
from ca.authority.manager import AuthorityManager
from ca.authority.model import AuthorityKind
from ca.rotation.issuer_rescue import IssuerRescue
from ca.rotation.jwt_upkeep import JwtUpkeep
from ca.rotation.lives import Lives
from ca.rotation.lost_keys import LostKeys
from ca.rotation.making_way import MakingWay
from ca.rotation.model import RotationKind
from ca.rotation.rests import Rests
from ca.rotation.rotator import Rotator
from ca.rotation.steering import Steering, Wish
from citadel.clock import Clock
from citadel.errors import CitadelError
from citadel.repeated import Repeated

_log = structlog.get_logger(__name__)

_LOOK_SECONDS: Final = 1.0
_TAKES_AGAIN: Final = 60.0  # seconds
_URGENT: Final = timedelta(seconds=30)  # for renewing what hangs on a root that is trusted no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """The shares of their lives after which authorities are rotated by themselves; no root is where it is None."""

    root: float | None
    issuer: float
    jwt: float


class Upkeep:
    """Looks, for as long as `run` runs, which authority is old enough."""

    def __init__(
        self,
        *,
        rotator: Rotator,
        steering: Steering,
        authorities: AuthorityManager,
        acts: Acts,
        margin: timedelta,
        shares: Shares,
        is_lost: Callable[[str], bool],
        clock: Clock,
    ) -> None:
        """`is_lost` says of the key with this id whether it will never sign again by itself."""
        self._rotator = rotator
        self._said = Repeated(clock=clock)
        self._steering = steering
        self._authorities = authorities
        self._prospects = authorities.prospects
        self._clock = clock
        self._lives = lives = Lives(
            authorities=authorities,
            leaving=rotator.leaving,
            margin=margin,
            root_at=shares.root,
            issuer_at=shares.issuer,
        )
        self._rests = rests = Rests(lives=lives, clock=clock)
        self._way = MakingWay(steering=steering, authorities=authorities, lives=lives, rests=rests)
        self._rescue = IssuerRescue(
            authorities=authorities,
            acts=acts,
            lives=lives,
            rests=rests,
            lost=LostKeys(is_lost, clock=clock),
            clock=clock,
        )
        self._jwt = JwtUpkeep(
            authorities=authorities,
            tokens=rotator.tokens,
            acts=acts,
            margin=margin,
            at=shares.jwt,
            lost=LostKeys(is_lost, clock=clock),
            clock=clock,
        )
        self._taken = ("", 0.0)  # what signed when something pending was taken last, and when it may be again

    async def run(self) -> None:
        """Look every second which authority is old enough, for ever."""
        while True:
            await self._clock.sleep(_LOOK_SECONDS)
            for look in (self._look, self._look_at_tokens):  # whatever is wrong with the one: the other may be urgent
                try:
                    await look()
                except CitadelError as error:
                    if self._said.is_news(str(error)):
                        _log.error("authority not renewed, trying again", reason=error.reason.value, error=str(error))

    async def _look(self) -> None:
        # What goes, goes late rather than early, and what comes the other way round: a clock that jumps does no harm.
        await self._authorities.drop_ended(self._rotator.time.certain())
        now = self._rotator.time.latest()
        if (running := self._rotator.running) is not None:
            await self._way.make_way(running, now)
        if self._is_root_due(now):
            await self._start(RotationKind.ROOT)  # it brings a new issuing authority along
        # Not before it: under a root that has ended no issuing authority can be made.
        if await self._leaves_a_bad_root() or await self._rescue.has_rescued(now):
            return
        if self._prospects.can_mint() and self._is_issuer_due(now):
            await self._start(RotationKind.ISSUER)

    async def _leaves_a_bad_root(self) -> bool:
        """Whether what signs is being replaced at once, whoever has not heard of what comes.

        Not once that should be over: what hangs must not keep anything else from being done about it.
        """
        pending, running = self._prospects.pending(), self._rotator.running
        if pending is None or not pending.is_urgent:
            return False
        if running is not None and running.kind is RotationKind.ISSUER and running.deadline is not None:
            if running.paused:
                await self._way.resume(running, pending.why)
            return self._rotator.time.unmoved() < running.deadline
        if not self._prospects.can_mint():
            return False
        wish = Wish(kind=RotationKind.ISSUER, deadline=_URGENT, why=pending.why)
        await self._steering.start(wish, by=Actor(ActorKind.SERVER))
        _log.error("issuing authority is replaced at once", why=pending.why)
        return True

    async def _look_at_tokens(self) -> None:
        now = self._rotator.time.latest()
        await self._jwt.rescue(now)
        if self._rotator.running is None and self._jwt.is_due(now):
            await self._start(RotationKind.JWT)

    async def _start(self, due: RotationKind) -> None:
        pending = self._prospects.pending() if due is not RotationKind.JWT else None
        why = pending.why if pending is not None else "it is due"
        await self._steering.start(Wish(kind=due, why=why), by=Actor(ActorKind.SERVER))
        if due is RotationKind.JWT:
            self._jwt.note_start()
        else:
            self._rests.note_start(due)
        if pending is not None:
            self._taken = (self._lives.active(AuthorityKind.ISSUER).id, self._clock.monotonic() + _TAKES_AGAIN)

    def _is_root_due(self, now: datetime) -> bool:
        """Also where roots are rotated by hand alone: the last moment is waited for, and not the outage after it."""
        if self._rests.do_roots_rest() and not self._prospects.root_cannot_sign:
            return False
        pending = self._prospects.pending()
        if pending is not None and pending.is_root and self._may_take_what_is_up():
            return True
        if AuthorityKind.ROOT in self._prospects.upstream_decides:
            return False
        is_last_moment = self._lives.left_of_the_root(now) <= timedelta(0)
        is_due = self._lives.is_root_old(now) or is_last_moment or self._is_stuck(now)
        return is_due and self._can_start(RotationKind.ROOT) and self._prospects.can_make_root()

    def _is_issuer_due(self, now: datetime) -> bool:
        pending = self._prospects.pending()
        if pending is not None and not pending.is_root:
            return self._may_take_what_is_up()
        is_by_time = AuthorityKind.ISSUER not in self._prospects.upstream_decides and not self._is_stuck(now)
        return is_by_time and self._lives.is_issuer_old(now) and self._can_start(RotationKind.ISSUER)

    def _is_stuck(self, now: datetime) -> bool:
        """Whether the issuing authority is due, and only another root can bring one: this one came from elsewhere."""
        return self._prospects.root_cannot_sign and self._lives.is_issuer_old(now)

    def _can_start(self, kind: RotationKind) -> bool:
        return self._rotator.running is None and self._rests.is_rested(kind)

    def _may_take_what_is_up(self) -> bool:
        """However soon after the last; but where that came to nothing, as by a person's hand, not at once."""
        signed, again_at = self._taken
        is_again = self._lives.active(AuthorityKind.ISSUER).id == signed and self._clock.monotonic() < again_at
        return self._rotator.running is None and not is_again
