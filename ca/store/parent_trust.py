"""What the parent said last is to be trusted, in SQL."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, insert, select

from ca.store.database import Database
from ca.store.schema import parent_trust
from citadel.spiffe import TrustDomain


class SqlParentTrust:
    """Fulfils `ca.upstream.citadel.authority.TrustStore`, with one row."""

    def __init__(self, *, database: Database, trust_domain: TrustDomain) -> None:
        self._database = database
        self._name = trust_domain.name

    async def load(self) -> bytes | None:
        query = select(parent_trust.c.trust).where(parent_trust.c.trust_domain == self._name)
        async with self._database.transaction() as connection:
            found = await connection.scalar(query)
        return bytes(found) if found is not None else None

    async def keep(self, trust: bytes, *, at: datetime) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(delete(parent_trust).where(parent_trust.c.trust_domain == self._name))
            await connection.execute(insert(parent_trust).values(trust_domain=self._name, trust=trust, taken_at=at))
