"""The server's records, wired: the ledger, the audit log, and what signs and prunes them."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import structlog

from ca.audit.model import Act, Actor, ActorKind
from ca.audit.trail import AuditTrail
from ca.authority.ports import KeyManager
from ca.ledger.chain import Log
from ca.ledger.notary import Keeping, Notary
from ca.ledger.verify import problem_of_tail
from ca.settings import ServerSettings
from ca.store.audit import SqlAuditLog
from ca.store.database import Database
from ca.store.notary import SqlNotaryStore
from ca.store.pages import SqlRecordPages
from ca.store.records import SqlRecords
from citadel.clock import Clock
from citadel.errors import Reason

_log = structlog.get_logger(__name__)


class RecordKeeping:
    """Keeps both logs: `start` once the schema is there, `run` in the background, `close` after the last row."""

    def __init__(self, settings: ServerSettings, *, database: Database, keys: KeyManager, clock: Clock) -> None:
        self._clock = clock
        self.acts = SqlAuditLog(database=database)
        self.trail = AuditTrail(acts=self.acts, clock=clock)
        self.notary = Notary(
            keys=keys,
            store=SqlNotaryStore(database=database),
            acts=self.acts,
            clock=clock,
            interval=settings.ledger.checkpoint_interval,
            keeping=(
                Keeping(log=Log.LEDGER, keep=settings.ledger.keep),
                Keeping(log=Log.AUDIT, keep=settings.audit.keep),
            ),
        )
        self.chains = SqlRecords(database=database)
        self.pages = SqlRecordPages(database=database)

    async def start(self) -> None:
        """Take up the signing key, look at the end of both logs, and begin this run's segment of the audit log."""
        await self.notary.start()
        problems = [problem for log in Log if (problem := await problem_of_tail(self.chains, log))]
        now = self._clock.now()
        await self.acts.begin(writer=uuid4().hex, at=now)
        for problem in problems:  # said, and no reason to leave the mesh without certificates
            _log.error("records are not what was written", reason=Reason.CHAIN_BROKEN.value, error=problem)
            act = Act(actor=Actor(ActorKind.SERVER), what="chain.broken", detail=problem, reason=Reason.CHAIN_BROKEN)
            await self.acts.record_all([act], at=now)

    async def run(self) -> None:
        """Write refusals, sign and prune, for ever."""
        async with asyncio.TaskGroup() as work:
            work.create_task(self.trail.run())
            work.create_task(self.notary.run())

    async def close(self) -> None:
        """Write what is left, and sign it."""
        await self.trail.close()
        await self.notary.close()
