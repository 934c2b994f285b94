"""How the issuing authority is replaced at its last moment, whatever stands in the way."""

from __future__ import annotations

from datetime import datetime

import structlog

from ca.audit.model import Act, Actor, ActorKind
from ca.audit.trail import Acts
from ca.authority.manager import AuthorityManager
from ca.authority.model import AuthorityKind
from ca.rotation.lives import Lives
from ca.rotation.lost_keys import LOST, LostKeys
from ca.rotation.rests import Rests
from citadel.clock import Clock

_log = structlog.get_logger(__name__)


class IssuerRescue:
    """Asked by `ca.rotation.upkeep` at each of its looks."""

    def __init__(
        self,
        *,
        authorities: AuthorityManager,
        acts: Acts,
        lives: Lives,
        rests: Rests,
        lost: LostKeys,
        clock: Clock,
    ) -> None:
        self._authorities = authorities
        self._acts = acts
        self._lives = lives
        self._rests = rests
        self._lost = lost
        self._clock = clock
        self._replaces_again_at = 0.0  # by the clock that never jumps
        self._replacing = ""  # the issuing authority whose replacement was noted last

    async def has_rescued(self, now: datetime) -> bool:
        """Replace the issuing authority at the last moment, or once its key is lost, whatever rotation hangs.

        Without one nobody has a certificate; with one that not everybody has acknowledged, few may miss theirs.
        """
        issuer = self._lives.active(AuthorityKind.ISSUER)
        is_lost = self._lost.is_due(issuer.key_id)
        if not is_lost and issuer.not_after - now > self._lives.reserve(issuer) / 2:
            return False
        is_rested = is_lost or self._clock.monotonic() >= self._replaces_again_at
        if not is_rested or not self._authorities.prospects.can_replace():
            return False
        if self._replacing != issuer.id:  # noted before it is done, and once, however often that fails
            why = LOST if is_lost else "its end was near, and not everybody had acknowledged a successor"
            act = Act(actor=Actor(ActorKind.SERVER), what="issuer.replace", target=issuer.id, why=why)
            await self._acts.record_all([act], at=self._clock.now())
            self._replacing = issuer.id
        await self._authorities.replace_issuer()
        self._replaces_again_at = self._rests.rested_at(issuer)
        _log.error("issuing authority replaced before everybody had acknowledged its successor", ended=issuer.id)
        return True
