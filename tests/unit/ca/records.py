"""What the tests of the two logs share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import text

from ca.audit.model import Act, Actor
from ca.issuance.ledger import LedgerRow
from ca.keys.sealing import KeyPurpose
from ca.ledger.chain import Log
from ca.ledger.checking import Report
from ca.ledger.notary import Keeping, Notary
from ca.ledger.verify import PublicKeys, verify
from ca.store.audit import SqlAuditLog
from ca.store.database import Database
from ca.store.ledger import SqlLedger
from ca.store.notary import SqlNotaryStore
from ca.store.records import SqlRecords
from citadel.errors import FailedPrecondition, Reason
from citadel.serial import new_serial, serial_hex
from citadel.spiffe import SpiffeId
from tests.clock import FakeClock
from tests.unit.ca.values import A_TEST, NODE_1, NOW

ROOT = Actor.local(0)


def row(requested_by: SpiffeId = NODE_1, **changes: object) -> LedgerRow:
    profile: dict[str, object] = {
        "serial": serial_hex(new_serial()),
        "spiffe_id": SpiffeId(A_TEST, "/web"),
        "entry_id": "entry-1",
        "requested_by": requested_by,
        "issuer_id": "i" * 32,
        "public_key": "k" * 64,
        "not_before": NOW,
        "not_after": NOW + timedelta(hours=1),
        "issued_at": NOW,
        "limited_by": "default",
    }
    return LedgerRow(**(profile | changes))  # type: ignore[arg-type] # a table of changes


@asynccontextmanager
async def writing(database: Database, *, banned: set[SpiffeId] | None = None, **more: Any) -> AsyncIterator[SqlLedger]:
    ledger = SqlLedger(database=database, is_banned=(set() if banned is None else banned).__contains__, **more)
    task = asyncio.create_task(ledger.run())
    try:
        yield ledger
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def write(database: Database, *rows: LedgerRow) -> None:
    """One run of a server that records `rows`."""
    async with writing(database) as ledger:
        await ledger.append(rows)


async def act(database: Database, *whats: str, at: datetime = NOW) -> None:
    await SqlAuditLog(database=database).record_all([Act(actor=ROOT, what=what) for what in whats], at=at)


class FakeKeys:
    """Keys in memory; `lost` makes them sealed for ever."""

    def __init__(self) -> None:
        self.made: dict[str, ec.EllipticCurvePrivateKey] = {}
        self.is_lost = False

    async def create(self, purpose: KeyPurpose) -> str:  # noqa: ARG002 - the port's form
        key_id = f"key-{len(self.made)}"
        self.made[key_id] = ec.generate_private_key(ec.SECP256R1())
        return key_id

    async def signer(self, key_id: str, purpose: KeyPurpose) -> ec.EllipticCurvePrivateKey:  # noqa: ARG002
        if self.is_lost and key_id == "key-0":
            raise FailedPrecondition(Reason.KEY_UNSEALABLE, f"{key_id} cannot be opened")
        return self.made[key_id]

    async def delete(self, key_id: str) -> None:
        del self.made[key_id]


async def notary_of(
    database: Database, clock: FakeClock, *, keys: FakeKeys | None = None, keeping: Sequence[Keeping] = ()
) -> Notary:
    notary = Notary(
        keys=keys or FakeKeys(),
        store=SqlNotaryStore(database=database),
        acts=SqlAuditLog(database=database),
        clock=clock,
        interval=timedelta(minutes=5),
        keeping=keeping,
    )
    await notary.start()
    return notary


async def checked(
    database: Database, log: Log = Log.LEDGER, *, kept: Sequence[str] = (), keys: PublicKeys | None = None
) -> Report:
    records = SqlRecords(database=database)
    return await verify(records, log, keys=keys or await records.keys(), kept_elsewhere=kept)


async def problems(database: Database, log: Log = Log.LEDGER, *, kept: Sequence[str] = ()) -> list[str]:
    return [found.problem for found in (await checked(database, log, kept=kept)).breaks]


async def tamper(database: Database, *statements: str) -> None:
    async with database.transaction() as connection:
        for statement in statements:
            await connection.execute(text(statement))
