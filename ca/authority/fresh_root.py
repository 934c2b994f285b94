"""What a start does where nothing on record can sign any more: it takes another root, as a rotation would have."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

import structlog

from ca.audit.model import Act, Actor, ActorKind
from ca.audit.trail import Acts
from ca.authority.model import Authority, AuthorityState, old_and_ended
from ca.authority.ports import UpstreamAuthority
from citadel.clock import Clock

_log = structlog.get_logger(__name__)


class FreshRoot:
    """Nobody is waited for: whatever was signed before has ended, and without this nobody is served at all."""

    def __init__(self, *, upstream: UpstreamAuthority, acts: Acts, clock: Clock) -> None:
        self._upstream = upstream
        self._acts = acts
        self._clock = clock

    async def take(self, issuers: Sequence[Authority]) -> None:
        """Have another root sign where the active one never will.

        Done again after a crash, it goes on with the root that it had prepared.
        """
        if not (why := self._upstream.cannot_sign()):
            return
        root_id = self._prepared(issuers) or uuid4().hex
        await self._upstream.prepare(root_id)
        act = Act(actor=Actor(ActorKind.SERVER), what="root.replace", target=root_id, why=why)
        await self._acts.record_all([act], at=self._clock.now())  # before it is done
        await self._upstream.activate(root_id, taints=False)
        await self._upstream.drop(old_and_ended(self._upstream.authorities(), self._clock.now()))
        _log.error("another root signs from now on, since nothing else could", authority=root_id, why=why)

    def _prepared(self, issuers: Sequence[Authority]) -> str | None:
        """The root of a rotation that never came to its end: many may have heard of it."""
        above = {each.parent_id for each in issuers if not self._has_ended(each)}
        prepared = [
            each.id
            for each in self._upstream.authorities()
            if each.state is AuthorityState.PREPARED
            and (each.id in above or each.key_id)  # others are listed in a folder, and nothing more
            and not self._has_ended(each)
        ]
        return prepared[-1] if prepared else None

    def _has_ended(self, authority: Authority) -> bool:
        return authority.not_after <= self._clock.now()
