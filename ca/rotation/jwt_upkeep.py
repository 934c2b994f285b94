"""How time renews the keys that sign tokens, at the last moment whatever stands in the way."""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog

from ca.audit.model import Act, Actor, ActorKind
from ca.audit.trail import Acts
from ca.authority.manager import AuthorityManager
from ca.rotation.lost_keys import LOST, LostKeys
from ca.rotation.tokens import Tokens
from citadel.clock import Clock

_log = structlog.get_logger(__name__)


class JwtUpkeep:
    """Asked by `ca.rotation.upkeep` at each of its looks."""

    def __init__(
        self,
        *,
        authorities: AuthorityManager,
        tokens: Tokens,
        acts: Acts,
        margin: timedelta,
        at: float,
        lost: LostKeys,
        clock: Clock,
    ) -> None:
        """`at` is the share of its life after which a key is rotated."""
        self._authorities = authorities
        self._tokens = tokens
        self._acts = acts
        self._margin = margin
        self._at = at
        self._lost = lost
        self._clock = clock
        self._starts_again_at = self._replaces_again_at = 0.0  # by the clock that never jumps
        self._replacing = ""  # the authority whose replacement was noted last

    def is_due(self, now: datetime) -> bool:
        """Whether the key that signs is old enough to be rotated."""
        signs = self._tokens.signs()
        age = (now - signs.not_before) / (signs.not_after - signs.not_before)
        return age >= self._at and self._clock.monotonic() >= self._starts_again_at

    def note_start(self) -> None:
        """It was done: not again soon by itself, since by a clock that was set back far what is new looks old."""
        self._starts_again_at = self._rested()

    async def rescue(self, now: datetime) -> None:
        """Sign by another key when the end is near, or this one is lost, whatever rotation hangs or is paused.

        Without one nobody has a token; with one that not everybody knows yet, few are refused, and not for long.
        """
        signs = self._tokens.signs()
        is_lost = self._lost.is_due(signs.key_id)
        if not is_lost and signs.not_after - now > self._tokens.reserve(self._margin) / 2:
            return
        if not is_lost and self._clock.monotonic() < self._replaces_again_at:
            return
        if self._replacing != signs.id:  # noted before it is done, and once, however often that fails
            why = LOST if is_lost else "its end was near, and not everybody had acknowledged a successor"
            act = Act(actor=Actor(ActorKind.SERVER), what="jwt.replace", target=signs.id, why=why)
            await self._acts.record_all([act], at=self._clock.now())
            self._replacing = signs.id
        async with self._authorities.changing_jwt() as jwt:
            successor = await jwt.prepare_any()  # in the bundle before it signs
        async with self._authorities.changing_jwt() as jwt:
            await jwt.activate(successor, taints=False)
        self._replaces_again_at = self._rested()
        _log.error("JWT authority replaced before everybody had acknowledged its successor", ended=signs.id)

    def _rested(self) -> float:
        signs = self._tokens.signs()
        return self._clock.monotonic() + (signs.not_after - signs.not_before).total_seconds() / 8
