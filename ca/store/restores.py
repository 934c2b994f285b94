"""The times that the ledger does not know of, since the store was restored from a backup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from ca.store.database import Database
from ca.store.schema import restores


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerGap:
    """Certificates that were issued from `begin` to `end` are not in the ledger."""

    begin: datetime
    end: datetime


async def ledger_gaps(database: Database) -> Sequence[LedgerGap]:
    """Every gap, the oldest first."""
    query = select(restores).order_by(restores.c.number)
    async with database.reading() as connection:
        return [LedgerGap(begin=row.made_at, end=row.restored_at) for row in await connection.execute(query)]
