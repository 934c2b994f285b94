"""How a rotation that runs makes way for what must not wait for it any longer."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import structlog

from ca.audit.model import Actor, ActorKind
from ca.authority.manager import AuthorityManager
from ca.authority.model import AuthorityKind
from ca.rotation import machine
from ca.rotation.lives import Lives
from ca.rotation.model import Phase, Rotation, RotationKind
from ca.rotation.rests import Rests
from ca.rotation.steering import Steering, Wish

_log = structlog.get_logger(__name__)

_HANGS: Final = timedelta(minutes=5)  # in a phase where there is nothing to wait for
_ROOT_ENDS: Final = "the root that signs nears its end"
_ISSUER_ENDS: Final = "the authority that signs nears its end"
_NOTHING_COMES: Final = "nothing came of it, and the authority that signs is due"


class MakingWay:
    """Asked by `ca.rotation.upkeep` at each of its looks at which a rotation runs."""

    def __init__(self, *, steering: Steering, authorities: AuthorityManager, lives: Lives, rests: Rests) -> None:
        self._steering = steering
        self._authorities = authorities
        self._prospects = authorities.prospects
        self._lives = lives
        self._rests = rests

    async def make_way(self, running: Rotation, now: datetime) -> None:
        """A rotation that outlasts the root would end in an outage for everybody, which no person can have meant.

        One of another kind is to end before a new root can come: from when that is due, it has half of the reserve to
        do so by itself.
        """
        decides = self._prospects.upstream_decides
        if decides or self._prospects.pending() is not None:
            await self._make_way_for_what_is_up(running, now)
        if self._hangs(running, now):
            await self._make_way_for_the_issuer(running, now)
        if AuthorityKind.ROOT in decides:
            return
        root = self._lives.active(AuthorityKind.ROOT)
        is_about_it, left, reserve = running.kind is RotationKind.ROOT, root.not_after - now, self._lives.reserve(root)
        if running.paused and left <= (reserve if is_about_it else 2 * reserve):
            await self.resume(running, _ROOT_ENDS)
        elif not is_about_it and left <= reserve * 1.5 and self._may_make_root():
            await self._end(running)

    async def resume(self, running: Rotation, why: str) -> None:
        """Let a paused rotation go on, whoever paused it."""
        await self._steering.resume(why=why, by=Actor(ActorKind.SERVER))
        _log.error("paused rotation goes on", rotation=running.id, why=why)

    def _may_make_root(self) -> bool:
        return self._rests.is_rested(RotationKind.ROOT) and self._prospects.can_make_root()

    async def _make_way_for_what_is_up(self, running: Rotation, now: datetime) -> None:
        """The same for what the upstream has put up, where there is nothing else that could sign after the authority.

        One under the same root is the rescue's to take.
        """
        issuer, pending = self._lives.active(AuthorityKind.ISSUER), self._prospects.pending()
        left, reserve = issuer.not_after - now, self._lives.reserve(issuer)
        if running.paused and left <= reserve:
            await self.resume(running, _ISSUER_ENDS)
        if pending is None or not pending.is_root or not self._rests.is_rested(RotationKind.ROOT):
            return
        if running.kind in (RotationKind.SVID, RotationKind.JWT) and left <= reserve * 1.5:
            await self._end(running, _ISSUER_ENDS)
        # It waits for an authority under a root from which none comes any more.
        elif running.kind is RotationKind.ISSUER and running.phase is Phase.PREPARE and not self._may_come(running):
            await self._end(running, pending.why)

    def _may_come(self, running: Rotation) -> bool:
        """Whether what this rotation is to prepare is there, or would be made."""
        is_there = any(each.id == running.new_id for each in self._authorities.issuers())
        return is_there or self._prospects.can_mint()

    def _hangs(self, running: Rotation, now: datetime) -> bool:
        """Whether nothing comes of a root that this server wants by itself, while its authority is due.

        That can have a successor under the same root, and is not left to its last moment.
        """
        is_own = running.kind is RotationKind.ROOT and running.started_by == str(Actor(ActorKind.SERVER))
        if not is_own or running.phase is not Phase.PREPARE or running.paused:
            return False
        if any(each.parent_id == running.new_id for each in self._authorities.issuers()):
            return False
        reserve = self._lives.reserve(self._lives.active(AuthorityKind.ISSUER))
        is_late = now - running.phase_since >= min(_HANGS, reserve)
        if not is_late or not self._lives.is_issuer_old(now):
            return False
        if self._lives.left_of_the_root(now) <= timedelta(0):
            return False
        return self._prospects.can_mint() and not self._prospects.root_cannot_sign

    async def _make_way_for_the_issuer(self, running: Rotation, now: datetime) -> None:
        """End a rotation of the root, which rests for a good while."""
        await self._steering.abort(why=_NOTHING_COMES, by=Actor(ActorKind.SERVER))
        self._rests.let_roots_rest(now)
        _log.error("rotation of the root ended, to renew the authority that signs", rotation=running.id)

    async def _end(self, running: Rotation, why: str = _ROOT_ENDS) -> None:
        """End it where it stands, and rotate the root."""
        if machine.can_be_undone(running):
            await self._steering.abort(why=why, by=Actor(ActorKind.SERVER))
        else:  # what it leaves behind goes with the old root, or with the next rotation of its kind
            wish = Wish(kind=RotationKind.ROOT, why=why)
            await self._steering.start(wish, by=Actor(ActorKind.SERVER), supersedes=running.id)
            self._rests.note_start(RotationKind.ROOT)
        _log.error(
            "rotation ended, to rotate the root",
            rotation=running.id,
            why=why,
            kind=running.kind.value,
            phase=running.phase.value,
        )
