"""Keeps an eye on the folder: at every change that the system tells of, and every `poll` besides."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, Protocol

import structlog

from ca.audit.trail import Acts
from ca.authority.manager import AuthorityManager
from ca.authority.model import Authority, active_of
from ca.upstream.condition import UpstreamCondition
from ca.upstream.files.authority import FilesUpstream
from ca.upstream.files.folder import invalid
from ca.upstream.telling import Telling
from citadel.clock import Clock
from citadel.errors import CitadelError
from citadel.waiting import first_of

_log = structlog.get_logger(__name__)

_LEAST_LEFT: Final = 0.25  # of its life, when its successor should lie in the folder


class Changes(Protocol):
    """Tells that something in the folder has changed. It may miss some."""

    async def wait(self) -> None:
        """Return at the next change, or where it cannot tell of any, never."""
        ...


class FolderKeeper:
    """Looks for as long as `run` runs."""

    def __init__(
        self,
        *,
        upstream: FilesUpstream,
        authorities: AuthorityManager,
        changes: Changes,
        acts: Acts,
        poll: timedelta,
        clock: Clock,
    ) -> None:
        self._upstream = upstream
        self._authorities = authorities
        self._changes = changes
        self._telling = Telling(what="folder of the authority", where=str(upstream.folder), acts=acts, clock=clock)
        self._poll = poll
        self._clock = clock
        self._alarmed_about = ""
        self._near_since: datetime | None = None

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            await first_of(self._changes.wait(), self._clock.sleep(self._poll.total_seconds()))
            try:
                await self.look()
            except CitadelError as error:  # of the store: what was seen is seen again
                _log.error("folder of the authority not taken", reason=error.reason.value, error=str(error))

    async def look(self) -> None:
        """Look once, and take what is there."""
        found = await self._upstream.look()
        if self._upstream.is_news(found):
            before = self._upstream.found.trouble
            async with self._authorities.changing_upstream():
                changes = await self._upstream.take(found)
            await self._telling.tell(before, found.trouble, changes)
        self._alarm()

    def condition(self) -> UpstreamCondition:
        """How it is with the folder. What is in force goes on until its end."""
        signing = active_of(self._authorities.issuers())
        trouble, since = self._upstream.found.trouble, self._upstream.troubled_since
        if trouble is None and (taint := self._upstream.taint()):
            trouble = invalid(self._upstream.folder, f"lists {taint}", fix="take it out of the file of roots")
        elif trouble is None and signing is not None and self._is_near_its_end(signing):
            trouble = invalid(
                self._upstream.folder,
                f"holds nothing newer than the issuing authority that ends {signing.not_after:%Y-%m-%dT%H:%M:%SZ}",
                fix="put its successor there",
            )
            since = self._near_since
        return UpstreamCondition(
            kind="files",
            source=str(self._upstream.folder),
            trouble=trouble,
            since=since,
            lasts_until=signing.not_after if signing is not None else None,
        )

    def _is_near_its_end(self, signing: Authority) -> bool:
        left, life = signing.not_after - self._clock.now(), signing.not_after - signing.not_before
        return left < life * _LEAST_LEFT and self._authorities.prospects.pending() is None

    def _alarm(self) -> None:
        """Once for each authority that nears its end."""
        signing = active_of(self._authorities.issuers())
        if signing is None or not self._is_near_its_end(signing):
            self._near_since = None
            return
        self._near_since = self._near_since or self._clock.now()
        if self._alarmed_about != signing.id:
            self._alarmed_about = signing.id
            _log.error(
                "the issuing authority nears its end, and the folder holds no successor",
                folder=str(self._upstream.folder),
                ends=signing.not_after.isoformat(),
            )
