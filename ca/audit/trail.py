"""Bringing refusals into the audit log, in the background and within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final, Protocol

import structlog

from ca.audit.model import Act, Actor, ActorKind
from citadel.clock import Clock
from citadel.errors import CitadelError
from citadel.tally import Refusal
from citadel.tasks import to_its_end

_log = structlog.get_logger(__name__)

_MOST_WAITING: Final = 1000
_RETRY_SECONDS: Final = 5.0
_MOST_TEXT: Final = 1000
_MOST_WHAT: Final = 64  # as wide as the column


class Acts(Protocol):
    """Where acts are recorded."""

    async def record_all(self, acts: Sequence[Act], *, at: datetime) -> None:
        """Return once all are durable. Raises `Unavailable` (`store_unavailable`, `lease_lost`); then none is."""
        ...


class AuditTrail:
    """Fulfils `citadel.tally.RefusalSink`: never waits, and never keeps more than a bounded number of acts.

    What the store does not take in time is dropped, and the log then has a row that says how many.
    """

    def __init__(self, *, acts: Acts, clock: Clock) -> None:
        self._acts = acts
        self._clock = clock
        self._waiting: list[Act] = []
        self._dropped = 0
        self._arrived = asyncio.Event()
        self._turn = asyncio.Lock()

    def note(self, refusal: Refusal) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            self._dropped += refusal.count
            return
        self._waiting.append(_act(refusal))
        self._arrived.set()

    async def run(self) -> None:
        """Write what was noted, for ever; a store that fails is tried again."""
        while True:
            await self._arrived.wait()
            try:
                await self._write()
            except CitadelError as error:
                _log.warning("refusals not in the audit log yet", reason=error.reason.value, error=str(error))
                await self._clock.sleep(_RETRY_SECONDS)

    async def close(self) -> None:
        """Write what is left; what the store does not take now is lost, and was logged."""
        with suppress(CitadelError):
            await self._write()

    async def _write(self) -> None:
        # Given up in the middle of a commit, nobody would know whether to write the same again.
        await to_its_end(self._write_in_turn())

    async def _write_in_turn(self) -> None:
        async with self._turn:
            await self._write_all()

    async def _write_all(self) -> None:
        acts, dropped = list(self._waiting), self._dropped
        if dropped:
            detail = "refusals that the store did not take in time; their reasons are in the log of the server"
            acts.append(Act(actor=Actor(ActorKind.SERVER), what="audit.dropped", detail=detail, count=dropped))
        if acts:
            await self._acts.record_all(acts, at=self._clock.now())
        del self._waiting[: len(acts) - bool(dropped)]  # what came meanwhile stands behind them
        self._dropped -= dropped
        if not self._waiting:
            self._arrived.clear()


def _act(refusal: Refusal) -> Act:
    by = refusal.by or Actor(ActorKind.SERVER)
    last = "" if refusal.count == 1 else "the last: "
    return Act(
        actor=by,  # of anonymous ones the address of the last
        what=refusal.what[:_MOST_WHAT],
        detail=f"{last}{refusal.message}"[:_MOST_TEXT],
        reason=refusal.reason,
        count=refusal.count,
    )
