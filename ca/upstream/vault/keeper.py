"""Keeps an eye on the PKI engine: which issuer signs there now, and which roots it holds."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import structlog

from ca.audit.trail import Acts
from ca.authority.manager import AuthorityManager
from ca.authority.model import active_of
from ca.upstream.condition import UpstreamCondition
from ca.upstream.telling import Telling
from ca.upstream.vault.authority import VaultUpstream
from ca.upstream.vault.engine import invalid
from citadel.clock import Clock
from citadel.errors import CitadelError
from citadel.unexpected import nothing_unexpected

_log = structlog.get_logger(__name__)

_LOOK_SOON: Final = timedelta(seconds=5)  # where the last look found nothing good


class VaultKeeper:
    """Looks for as long as `run` runs, at once and then every `poll`."""

    def __init__(
        self,
        *,
        upstream: VaultUpstream,
        authorities: AuthorityManager,
        acts: Acts,
        poll: timedelta,
        lifetime: timedelta,
        clock: Clock,
    ) -> None:
        """`lifetime` is that which issuing authorities are to have."""
        self._upstream = upstream
        self._authorities = authorities
        self._telling = Telling(what="PKI engine in Vault", where=upstream.mount, acts=acts, clock=clock)
        self._poll = poll
        self._lifetime = lifetime
        self._clock = clock

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            try:
                with nothing_unexpected("the PKI engine in Vault"):
                    await self.look()
            except CitadelError as error:  # of the store: what was seen is seen again
                _log.error("PKI engine in Vault not taken", reason=error.reason.value, error=str(error))
            is_good = self._upstream.view.found.trouble is None
            await self._clock.sleep((self._poll if is_good else min(self._poll, _LOOK_SOON)).total_seconds())

    async def look(self) -> None:
        """Look once, and take what is there."""
        found = await self._upstream.look()
        if self._upstream.is_news(found):
            before, notes = self._upstream.view.found.trouble, self._upstream.view.notes()
            async with self._authorities.changing_upstream():
                changes = await self._upstream.take(found)
            await self._telling.tell(before, self._upstream.view.found.trouble, changes)
            for note in self._upstream.view.notes():
                if note not in notes:
                    _log.warning("PKI engine in Vault", note=note)
        tainted = self._upstream.tainted
        if tainted is not None and tainted.are_there():
            async with self._authorities.changing_upstream():
                await tainted.end()

    def condition(self) -> UpstreamCondition:
        """How it is with the engine. What is in force goes on until its end."""
        trouble, since = self._trouble()
        if trouble is None and (taint := self._upstream.taint()):
            trouble = invalid(self._upstream.mount, f"holds {taint}", fix="delete that issuer")
        signing = active_of(self._authorities.issuers())
        return UpstreamCondition(
            kind="vault",
            source=self._upstream.mount,
            trouble=trouble,
            since=since,
            lasts_until=signing.not_after if signing is not None else None,
            notes=self._notes(),
        )

    def _trouble(self) -> tuple[CitadelError | None, datetime | None]:
        """Why nothing new would come now, and since when."""
        view, signing, rooting = self._upstream.view, self._upstream.signing, self._upstream.rooting
        if view.found.trouble is not None:
            return view.found.trouble, view.troubled_since
        of_roots = (rooting.making, rooting.ending) if rooting is not None else ()
        for answered in (signing.refused(), *of_roots):
            if answered is not None and answered.last is not None:
                return answered.last, answered.since
        return None, None

    def _notes(self) -> tuple[str, ...]:
        """What is otherwise than asked for, or than one might think."""
        upstream = self._upstream
        of_roots = upstream.rooting.notes if upstream.rooting is not None else ()
        short = filter(None, (upstream.shortened(self._lifetime),))
        return (*upstream.view.notes(), *short, *upstream.signing.notes, *of_roots)
