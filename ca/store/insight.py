"""Looking up in the ledger and the audit log what concerns one identity."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from sqlalchemy import and_, func, or_, select

from ca.insight.identity_facts import IssuedRecord, RefusalRecord
from ca.store.database import Database
from ca.store.schema import audit, ledger
from citadel.spiffe import SpiffeId

# The audit log has no index by name: what is older than so many rows is not "the last refusal" to anybody.
_ROWS_BACK: Final = 5000


class SqlIdentityRecords:
    """Fulfils `ca.insight.gather.Records`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def last_issued(self, spiffe_id: SpiffeId) -> IssuedRecord | None:
        columns = (ledger.c.serial, ledger.c.requested_by, ledger.c.issued_at, ledger.c.not_after)
        newest = (
            select(*columns).where(ledger.c.spiffe_id == str(spiffe_id)).order_by(ledger.c.issued_at.desc()).limit(1)
        )
        async with self._database.reading() as connection:
            row = (await connection.execute(newest)).first()
        if row is None:
            return None
        return IssuedRecord(
            serial=row.serial, requested_by=row.requested_by, issued_at=row.issued_at, not_after=row.not_after
        )

    async def last_refusal(self, concerning: Collection[SpiffeId]) -> RefusalRecord | None:
        names = sorted(map(str, concerning))
        oldest = select(func.max(audit.c.number) - _ROWS_BACK).scalar_subquery()
        newest = (
            select(audit)
            .where(
                and_(
                    audit.c.number > oldest,
                    audit.c.reason != "",
                    or_(audit.c.actor.in_(names), audit.c.target.in_(names)),
                )
            )
            .order_by(audit.c.number.desc())
            .limit(1)
        )
        async with self._database.reading() as connection:
            row = (await connection.execute(newest)).first()
        if row is None:
            return None
        return RefusalRecord(
            at=row.at, who=row.actor, what=row.what, target=row.target, reason=row.reason, detail=row.detail
        )
