"""How time starts rotations: authorities are renewed by themselves, at the last moment whatever stands in the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from ca.audit.model import Act, Actor, ActorKind
from ca.audit.trail import Acts
from ca.authority.manager import AuthorityManager
from ca.authority.model import Authority, AuthorityKind, AuthorityState
from ca.rotation import machine
from ca.rotation.jwt_upkeep import JwtUpkeep
from ca.rotation.lost_keys import LOST, LostKeys
from ca.rotation.model import Phase, Rotation, RotationKind
from ca.rotation.rotator import Rotator
from ca.rotation.steering import Steering, Wish
from citadel.clock import Clock
from citadel.errors import CitadelError
from citadel.repeated import Repeated

_log = structlog.get_logger(__name__)

_LOOK_SECONDS: Final = 1.0
_TAKES_AGAIN: Final = 60.0  # seconds
_URGENT: Final = timedelta(seconds=30)  # for renewing what hangs on a root that is trusted no more
_HANGS: Final = timedelta(minutes=5)  # in a phase where there is nothing to wait for
_ROOT_ENDS: Final = "the root that signs nears its end"
_ISSUER_ENDS: Final = "the authority that signs nears its end"
_NOTHING_COMES: Final = "nothing came of it, and the authority that signs is due"


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
        self._acts = acts
        self._margin = margin
        self._root_at = shares.root
        self._issuer_at = shares.issuer
        self._clock = clock
        self._jwt = JwtUpkeep(
            authorities=authorities,
            tokens=rotator.tokens,
            acts=acts,
            margin=margin,
            at=shares.jwt,
            lost=LostKeys(is_lost, clock=clock),
            clock=clock,
        )
        self._lost = LostKeys(is_lost, clock=clock)
        self._starts_again_at: dict[RotationKind, float] = {}  # by the clock that never jumps
        self._roots_rest_until = 0.0  # by the same
        self._replaces_again_at = 0.0  # by the same
        self._taken = ("", 0.0)  # what signed when something pending was taken last, and when it may be again
        self._replacing = ""  # the issuing authority whose replacement was noted last

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
        await self._make_way_for_the_root(now)
        if self._is_root_due(now):
            await self._start(RotationKind.ROOT)  # it brings a new issuing authority along
        # Not before it: under a root that has ended no issuing authority can be made.
        if await self._leaves_a_bad_root() or await self._has_rescued(now):
            return
        if self._authorities.can_mint() and self._is_issuer_due(now):
            await self._start(RotationKind.ISSUER)

    async def _leaves_a_bad_root(self) -> bool:
        """Whether what signs is being replaced at once, whoever has not heard of what comes.

        Not once that should be over: what hangs must not keep anything else from being done about it.
        """
        pending, running = self._authorities.pending(), self._rotator.running
        if pending is None or not pending.is_urgent:
            return False
        if running is not None and running.kind is RotationKind.ISSUER and running.deadline is not None:
            if running.paused:
                await self._resume(running, pending.why)
            return self._rotator.time.unmoved() < running.deadline
        if not self._authorities.can_mint():
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
        pending = self._authorities.pending() if due is not RotationKind.JWT else None
        why = pending.why if pending is not None else "it is due"
        await self._steering.start(Wish(kind=due, why=why), by=Actor(ActorKind.SERVER))
        self._note_start(due)
        if pending is not None:
            self._taken = (self._active(AuthorityKind.ISSUER).id, self._clock.monotonic() + _TAKES_AGAIN)

    def _is_root_due(self, now: datetime) -> bool:
        """Also where roots are rotated by hand alone: the last moment is waited for, and not the outage after it."""
        if self._clock.monotonic() < self._roots_rest_until and not self._authorities.root_cannot_sign:
            return False
        pending = self._authorities.pending()
        if pending is not None and pending.is_root and self._may_take_what_is_up():
            return True
        if AuthorityKind.ROOT in self._authorities.upstream_decides:
            return False
        root = self._active(AuthorityKind.ROOT)
        is_old = self._root_at is not None and _is_older(root, self._root_at, now)
        is_due = is_old or self._left_of_the_root(root, now) <= timedelta(0) or self._is_stuck(now)
        return is_due and self._rotator.running is None and self._may_make_root()

    def _is_issuer_due(self, now: datetime) -> bool:
        pending, issuer = self._authorities.pending(), self._active(AuthorityKind.ISSUER)
        if pending is not None and not pending.is_root:
            return self._may_take_what_is_up()
        is_by_time = AuthorityKind.ISSUER not in self._authorities.upstream_decides and not self._is_stuck(now)
        return is_by_time and _is_older(issuer, self._issuer_at, now) and self._can_start(RotationKind.ISSUER)

    def _is_stuck(self, now: datetime) -> bool:
        """Whether the issuing authority is due, and only another root can bring one: this one came from elsewhere."""
        return self._authorities.root_cannot_sign and _is_older(
            self._active(AuthorityKind.ISSUER), self._issuer_at, now
        )

    def _may_make_root(self) -> bool:
        return self._is_rested(RotationKind.ROOT) and self._authorities.can_make_root()

    def _can_start(self, kind: RotationKind) -> bool:
        return self._rotator.running is None and self._is_rested(kind)

    def _may_take_what_is_up(self) -> bool:
        """However soon after the last; but where that came to nothing, as by a person's hand, not at once."""
        is_again = self._active(AuthorityKind.ISSUER).id == self._taken[0] and self._clock.monotonic() < self._taken[1]
        return self._rotator.running is None and not is_again

    async def _make_way_for_the_root(self, now: datetime) -> None:
        """A rotation that outlasts the root would end in an outage for everybody, which no person can have meant.

        One of another kind is to end before a new root can come: from when that is due, it has half of the reserve to
        do so by itself.
        """
        running, decides = self._rotator.running, self._authorities.upstream_decides
        if running is None:
            return
        if decides or self._authorities.pending() is not None:
            await self._make_way_for_what_is_up(running, now)
        if self._hangs(running, now):
            await self._make_way_for_the_issuer(running, now)
        if AuthorityKind.ROOT in decides:
            return
        root = self._active(AuthorityKind.ROOT)
        is_about_it, left, reserve = running.kind is RotationKind.ROOT, root.not_after - now, self._reserve(root)
        if running.paused and left <= (reserve if is_about_it else 2 * reserve):
            await self._resume(running, _ROOT_ENDS)
        elif not is_about_it and left <= reserve * 1.5 and self._may_make_root():
            await self._end(running)

    async def _make_way_for_what_is_up(self, running: Rotation, now: datetime) -> None:
        """The same for what the upstream has put up, where there is nothing else that could sign after the authority.

        One under the same root is the rescue's to take.
        """
        issuer, pending = self._active(AuthorityKind.ISSUER), self._authorities.pending()
        left, reserve = issuer.not_after - now, self._reserve(issuer)
        if running.paused and left <= reserve:
            await self._resume(running, _ISSUER_ENDS)
        if pending is None or not pending.is_root or not self._is_rested(RotationKind.ROOT):
            return
        if running.kind in (RotationKind.SVID, RotationKind.JWT) and left <= reserve * 1.5:
            await self._end(running, _ISSUER_ENDS)
        # It waits for an authority under a root from which none comes any more.
        elif running.kind is RotationKind.ISSUER and running.phase is Phase.PREPARE and not self._may_come(running):
            await self._end(running, pending.why)

    def _may_come(self, running: Rotation) -> bool:
        """Whether what this rotation is to prepare is there, or would be made."""
        is_there = any(each.id == running.new_id for each in self._authorities.issuers())
        return is_there or self._authorities.can_mint()

    def _hangs(self, running: Rotation, now: datetime) -> bool:
        """Whether nothing comes of a root that this server wants by itself, while its authority is due.

        That can have a successor under the same root, and is not left to its last moment.
        """
        issuer, root = self._active(AuthorityKind.ISSUER), self._active(AuthorityKind.ROOT)
        is_own = running.kind is RotationKind.ROOT and running.started_by == str(Actor(ActorKind.SERVER))
        if not is_own or running.phase is not Phase.PREPARE or running.paused:
            return False
        if any(each.parent_id == running.new_id for each in self._authorities.issuers()):
            return False
        is_late = now - running.phase_since >= min(_HANGS, self._reserve(issuer))
        if not is_late or not _is_older(issuer, self._issuer_at, now):
            return False
        if self._left_of_the_root(root, now) <= timedelta(0):
            return False
        return self._authorities.can_mint() and not self._authorities.root_cannot_sign

    async def _make_way_for_the_issuer(self, running: Rotation, now: datetime) -> None:
        """End a rotation of the root, which rests for a good while; but not until the root itself must be rotated."""
        await self._steering.abort(why=_NOTHING_COMES, by=Actor(ActorKind.SERVER))
        issuer, root = self._active(AuthorityKind.ISSUER), self._active(AuthorityKind.ROOT)
        longest = self._clock.monotonic() + self._left_of_the_root(root, now).total_seconds()
        self._roots_rest_until = min(self._rested(issuer), longest)
        self._starts_again_at[RotationKind.ROOT] = self._roots_rest_until
        self._starts_again_at.pop(RotationKind.ISSUER, None)
        _log.error("rotation of the root ended, to renew the authority that signs", rotation=running.id)

    def _left_of_the_root(self, root: Authority, now: datetime) -> timedelta:
        """Until it must be rotated, whatever else is due."""
        return root.not_after - now - 2 * self._reserve(root)

    async def _resume(self, running: Rotation, why: str) -> None:
        await self._steering.resume(why=why, by=Actor(ActorKind.SERVER))
        _log.error("paused rotation goes on", rotation=running.id, why=why)

    async def _end(self, running: Rotation, why: str = _ROOT_ENDS) -> None:
        """End it where it stands, and rotate the root."""
        if machine.can_be_undone(running):
            await self._steering.abort(why=why, by=Actor(ActorKind.SERVER))
        else:  # what it leaves behind goes with the old root, or with the next rotation of its kind
            wish = Wish(kind=RotationKind.ROOT, why=why)
            await self._steering.start(wish, by=Actor(ActorKind.SERVER), supersedes=running.id)
            self._note_start(RotationKind.ROOT)
        _log.error(
            "rotation ended, to rotate the root",
            rotation=running.id,
            why=why,
            kind=running.kind.value,
            phase=running.phase.value,
        )

    async def _has_rescued(self, now: datetime) -> bool:
        """Replace the issuing authority at the last moment, or once its key is lost, whatever rotation hangs.

        Without one nobody has a certificate; with one that not everybody has acknowledged, few may miss theirs.
        """
        issuer = self._active(AuthorityKind.ISSUER)
        is_lost = self._lost.is_due(issuer.key_id)
        if not is_lost and issuer.not_after - now > self._reserve(issuer) / 2:
            return False
        is_rested = is_lost or self._clock.monotonic() >= self._replaces_again_at
        if not is_rested or not self._authorities.can_replace():
            return False
        if self._replacing != issuer.id:  # noted before it is done, and once, however often that fails
            why = LOST if is_lost else "its end was near, and not everybody had acknowledged a successor"
            act = Act(actor=Actor(ActorKind.SERVER), what="issuer.replace", target=issuer.id, why=why)
            await self._acts.record_all([act], at=self._clock.now())
            self._replacing = issuer.id
        await self._authorities.replace_issuer()
        self._replaces_again_at = self._rested(issuer)
        _log.error("issuing authority replaced before everybody had acknowledged its successor", ended=issuer.id)
        return True

    def _note_start(self, kind: RotationKind) -> None:
        """It was done: not again soon by itself. But no rest is so long that the root could end in it."""
        if kind is RotationKind.JWT:
            self._jwt.note_start()
            return
        self._starts_again_at[RotationKind.ISSUER] = rested = self._rested(self._active(AuthorityKind.ISSUER))
        if kind is RotationKind.ROOT:
            reserve = self._reserve(self._active(AuthorityKind.ROOT)).total_seconds()
            self._starts_again_at[kind] = min(rested, self._clock.monotonic() + reserve / 4)

    def _is_rested(self, kind: RotationKind) -> bool:
        return self._clock.monotonic() >= self._starts_again_at.get(kind, 0.0)

    def _reserve(self, authority: Authority) -> timedelta:
        return self._rotator.leaving.reserve(authority, self._margin)

    def _rested(self, issuer: Authority) -> float:
        """When it may be done by itself again: by a clock that was set back far, what is new looks old at once."""
        return self._clock.monotonic() + (issuer.not_after - issuer.not_before).total_seconds() / 8

    def _active(self, kind: AuthorityKind) -> Authority:
        authorities = (each for each in self._authorities.authorities() if each.kind is kind)
        return next(each for each in authorities if each.state is AuthorityState.ACTIVE)


def _is_older(authority: Authority, share: float, now: datetime) -> bool:
    return authority.not_before + (authority.not_after - authority.not_before) * share <= now
