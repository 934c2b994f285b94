"""What the ledger says of the agents' own SVIDs. It is exact: a row is durable before its certificate leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import func, select

from ca.agents.model import OwnSvid
from ca.store.database import Database
from ca.store.schema import agents, ledger
from citadel.spiffe import SpiffeId


class SqlOwnSvids:
    """Fulfils `ca.agents.rejoining.KeyEnds` and `ca.api.agents.OwnSvids`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def key_ended_at(self, spiffe_id: SpiffeId, key: str) -> datetime | None:
        ended = select(func.max(ledger.c.not_after)).where(
            ledger.c.spiffe_id == str(spiffe_id), ledger.c.public_key == key
        )
        async with self._database.transaction() as connection:
            found: datetime | None = await connection.scalar(ended)
            return found

    async def newest(self, agent_ids: Sequence[SpiffeId]) -> Mapping[SpiffeId, OwnSvid]:
        """The newest own SVID of each of these agents; those whose rows were pruned have none."""
        # One descent in the index for each agent, where GROUP BY would read all of its rows.
        newest = (
            select(func.max(ledger.c.number))
            .where(ledger.c.spiffe_id == agents.c.spiffe_id)
            .correlate(agents)
            .scalar_subquery()
        )
        wanted = (
            select(agents.c.spiffe_id, ledger.c.serial, ledger.c.not_after)
            .join(ledger, ledger.c.number == newest)
            .where(agents.c.spiffe_id.in_([str(spiffe_id) for spiffe_id in agent_ids]))
        )
        async with self._database.transaction() as connection:
            rows = await connection.execute(wanted)
            return {SpiffeId.parse(row.spiffe_id): OwnSvid(serial=row.serial, not_after=row.not_after) for row in rows}
