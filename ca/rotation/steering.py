"""How people start and change rotations. Each act is in the audit log exactly when it was done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final
from uuid import uuid4

import structlog

from ca.audit.model import Act, Actor, ActorKind
from ca.authority.manager import AuthorityManager
from ca.authority.model import AuthorityKind
from ca.rotation import gate, machine
from ca.rotation.census import Census
from ca.rotation.model import Holder, Phase, Rotation, RotationKind, Scope
from ca.rotation.rotator import Rotator
from citadel.clock import Clock
from citadel.errors import FailedPrecondition, InvalidArgument, Reason
from citadel.tasks import to_its_end

_log = structlog.get_logger(__name__)

_MOST_WORDS: Final = 500
_NO_TIME: Final = timedelta(0)
_LONGEST: Final = timedelta(days=365)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What somebody wants to be rotated. `window` None takes the setting; `deadline` is set in an emergency alone."""

    kind: RotationKind
    window: timedelta | None = None
    deadline: timedelta | None = None
    scope: Scope = field(default_factory=Scope)
    skip: frozenset[str] = frozenset()
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a rotation would do now. `takes` is the least."""

    steps: Sequence[Phase]
    takes: timedelta
    holders: Sequence[Holder]
    census: Census


class Steering:
    """Starts, pauses, resumes and aborts. `ca.rotation.upkeep` is how time does."""

    def __init__(
        self,
        *,
        rotator: Rotator,
        authorities: AuthorityManager,
        window: timedelta,
        margin: timedelta,
        jwt_margin: timedelta,
        clock: Clock,
    ) -> None:
        """`jwt_margin` is that of keys for tokens, which some who check tokens poll for."""
        self._rotator = rotator
        self._authorities = authorities
        self._window = window
        self._margin = margin
        self._jwt_margin = jwt_margin
        self._clock = clock

    async def start(self, wish: Wish, *, by: Actor, supersedes: str = "") -> Rotation:
        """Begin. Raises `FailedPrecondition` (`rotation_running`) naming the one that runs, or `InvalidArgument`.

        An emergency ends the one that runs where it is, and takes over what goes: no leaked key waits for a proxy. So
        does any other where the id of the one that runs is that of `supersedes`.
        """
        return await to_its_end(self._start(wish, by, supersedes))

    async def plan(self, wish: Wish) -> Plan:
        """What `start` would do."""
        rotation = self._new(wish, Actor(ActorKind.SERVER))
        course = machine.COURSE[wish.kind]
        # Who has not acknowledged even today's bundle would hold up the next one.
        asked = replace(rotation, phase=Phase.OBSERVE if Phase.OBSERVE in course else Phase.PREPARE)
        margins = rotation.margin * sum(1 for phase in course if machine.has_margin(wish.kind, phase))
        margins += self._rotator.polled.least(wish.kind)
        now = self._rotator.time.now()
        asking = gate.still_held(await self._rotator.waiting.would_ask(rotation, now), rotation.skipped, now)
        named = {each.name for each in asking}
        holders = [*(h for h in await self._rotator.holders(asked, at_once=True) if h.name not in named), *asking]
        left_with: list[Holder] = []
        if Phase.DRAIN in course and (wish.deadline is None or wish.kind is RotationKind.JWT):
            left_with = gate.still_held(self._rotator.waiting.left_with(rotation), rotation.skipped, now)
            holders += left_with
        if wish.deadline is not None:  # everything is renewed at once
            takes = min(rotation.margin, wish.deadline)
        elif wish.kind is RotationKind.JWT:
            takes = max([margins, *(each.until - now for each in left_with if each.until is not None)])
        else:
            takes = (
                margins + rotation.window + max((each.until - now for each in asking if each.until), default=_NO_TIME)
            )
        census = self._rotator.mesh.counting.census(trust=self._rotator.waiting.trust(wish.kind), order_id="")
        return Plan(steps=course, takes=takes, holders=holders, census=census)

    async def pause(self, *, why: str, by: Actor) -> Rotation:
        """Stay in the phase where it is."""
        return await to_its_end(self._set("rotation.pause", by, why, paused=True))

    async def resume(self, *, why: str, by: Actor) -> Rotation:
        """Go on."""
        return await to_its_end(self._set("rotation.resume", by, why, paused=False))

    async def skip(self, name: str, *, why: str, by: Actor) -> Rotation:
        """Go on without this agent or proxy: its workloads may lose their connections."""
        if not name:
            raise InvalidArgument(Reason.REQUEST_MALFORMED, "name whom to skip, as `rotate status` does")
        return await to_its_end(self._skip(name, by, why))

    async def abort(self, *, why: str, by: Actor) -> Rotation:
        """Undo it. Raises `FailedPrecondition` (`rotation_too_far`) once the new root signs."""
        return await to_its_end(self._abort(by, why))

    async def _start(self, wish: Wish, by: Actor, supersedes: str) -> Rotation:
        async with self._rotator.one_change_at_a_time:
            if self._rotator.running is None:
                await self._rotator.start()  # the store may know of one whose commit seemed to fail
            rotation = self._new(wish, by)
            if (running := self._rotator.running) is not None:
                if not rotation.is_emergency and running.id != supersedes:
                    raise _already_running(running)
                await self._supersede(running, by=rotation, actor=by)
            what = f"{rotation.kind.value} {rotation.scope}" if wish.kind is RotationKind.SVID else rotation.kind.value
            detail = f"{what}, emergency" if rotation.is_emergency else what
            await self._rotator.change(rotation, self._act("rotation.start", rotation, by, wish.why, detail))
        _log.warning("rotation begins", rotation=rotation.id, what=detail, by=str(by))
        return rotation

    async def _supersede(self, running: Rotation, *, by: Rotation, actor: Actor) -> None:
        who = f"emergency {by.id}" if by.is_emergency else f"rotation {by.id}: {by.why}"
        now, why = self._clock.now(), f"superseded in {running.phase.value} by the {who}"
        alarm = "; ".join(filter(None, (running.alarm, why)))
        ended = replace(running, phase=Phase.SUPERSEDED, phase_since=now, ended_at=now, paused=False, alarm=alarm)
        await self._rotator.change(ended, self._act("rotation.supersede", ended, actor, by.why, why))

    def _new(self, wish: Wish, by: Actor) -> Rotation:
        self._check_whose(wish.kind)
        # A person rotates the root where that has leaked; where it is not this server's, the server follows.
        of_people = by.kind is not ActorKind.SERVER or wish.kind is not RotationKind.ISSUER
        if wish.deadline is not None and wish.kind not in (RotationKind.ROOT, RotationKind.JWT) and of_people:
            raise InvalidArgument(Reason.REQUEST_MALFORMED, "only roots and JWT keys are rotated in an emergency")
        for name, value in (("window", wish.window), ("deadline", wish.deadline)):
            if value is not None and not timedelta(0) <= value <= _LONGEST:
                raise InvalidArgument(Reason.REQUEST_MALFORMED, f"the {name} must be from 0 to {_LONGEST.days} days")
        now = self._clock.now()
        return Rotation(
            id=uuid4().hex,
            kind=wish.kind,
            phase=machine.first_phase(wish.kind),
            started_at=now,
            phase_since=now,
            started_by=str(by),
            why=_shown(wish.why),
            new_id=uuid4().hex if wish.kind is not RotationKind.SVID else "",
            old_ids=self._that_go(wish.kind),
            scope=wish.scope,
            window=self._window if wish.window is None else wish.window,
            margin=self._jwt_margin if wish.kind is RotationKind.JWT else self._margin,
            deadline=self._rotator.time.unmoved() + wish.deadline if wish.deadline is not None else None,
            skipped=wish.skip - {""},
        )

    def _check_whose(self, kind: RotationKind) -> None:
        """What the upstream decides is rotated when it has put something up."""
        prospects = self._authorities.prospects
        pending, decides = prospects.pending(), prospects.upstream_decides
        is_up = pending is not None and pending.is_root is (kind is RotationKind.ROOT)
        if not is_up and kind.value in {each.value for each in decides}:
            raise FailedPrecondition(
                Reason.UPSTREAM_DECIDES,
                f"the {kind.value} is the upstream's to rotate, which has put up nothing new",
                fix=prospects.upstream_advice,
            )

    def _that_go(self, kind: RotationKind) -> tuple[str, ...]:
        match kind:
            case RotationKind.ROOT:
                authorities = self._authorities.authorities()
                return tuple(each.id for each in authorities if each.kind is AuthorityKind.ROOT)
            case RotationKind.ISSUER:
                return tuple(each.id for each in self._authorities.issuers())
            case RotationKind.JWT:
                return tuple(each.id for each in self._authorities.jwt.authorities())
            case RotationKind.SVID:
                return ()

    async def _set(self, what: str, by: Actor, why: str, *, paused: bool) -> Rotation:
        async with self._rotator.one_change_at_a_time:
            changed = replace(self._running(), paused=paused)
            await self._rotator.change(changed, self._act(what, changed, by, why))
        return changed

    async def _skip(self, name: str, by: Actor, why: str) -> Rotation:
        async with self._rotator.one_change_at_a_time:
            running = self._running()
            changed = replace(running, skipped=running.skipped | {name})
            await self._rotator.change(changed, self._act("rotation.skip", changed, by, why, name))
        return changed

    async def _abort(self, by: Actor, why: str) -> Rotation:
        async with self._rotator.one_change_at_a_time:
            running = self._running()
            if not machine.can_be_undone(running):
                raise FailedPrecondition(
                    Reason.ROTATION_TOO_FAR,
                    f"the rotation {running.id} is in its phase {running.phase.value}: what is new has signed already",
                    fix="let it end, and rotate again where that is wanted",
                )
            changed = replace(running, phase=Phase.UNDO, phase_since=self._clock.now(), paused=False)
            await self._rotator.change(changed, self._act("rotation.abort", changed, by, why))
        return changed

    def _running(self) -> Rotation:
        running = self._rotator.running
        if running is None:
            raise FailedPrecondition(Reason.ROTATION_NOT_RUNNING, "no rotation runs")
        return running

    @staticmethod
    def _act(what: str, rotation: Rotation, by: Actor, why: str, detail: str = "") -> Act:
        return Act(actor=by, what=what, target=rotation.id, detail=detail, why=_shown(why))


def _already_running(running: Rotation) -> FailedPrecondition:
    return FailedPrecondition(
        Reason.ROTATION_RUNNING,
        f"the rotation {running.id} ({running.kind.value}) is in its phase {running.phase.value}",
        fix="see `citadel-cli rotate status`; wait for its end, or abort it",
    )


def _shown(why: str) -> str:
    return why.strip()[:_MOST_WORDS]
