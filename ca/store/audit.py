"""Writing the audit log, within the transaction of the act that it tells of."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import uuid4

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.audit.model import Act
from ca.ledger.chain import Log, link, microseconds, record
from ca.store.chain import begin_segment, head_of, newest_segment
from ca.store.database import Database
from ca.store.schema import audit


class SqlAuditLog:
    """Fulfils `ca.audit.trail.Acts`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def begin(self, *, writer: str, at: datetime) -> None:
        """Go on in a segment of its own: what an earlier run of a server wrote is closed with its head."""
        async with self._database.transaction() as connection:
            await begin_segment(connection, Log.AUDIT, writer=writer, at=at)

    async def record_all(self, acts: Sequence[Act], *, at: datetime) -> None:
        async with self._database.transaction() as connection:
            await record_acts(connection, acts, at=at)


async def record_act(connection: AsyncConnection, act: Act, *, at: datetime) -> None:
    """Note `act` in the transaction of `connection`: it is in the log exactly when it was done.

    Holds the head of the log until the transaction ends, so it belongs at the transaction's end. Many acts at once cost
    less with `record_acts`.
    """
    await record_acts(connection, [act], at=at)


async def record_acts(connection: AsyncConnection, acts: Sequence[Act], *, at: datetime) -> None:
    """Note `acts` in their order, as `record_act` does one."""
    if not acts:
        return
    segment = await newest_segment(connection, Log.AUDIT)
    if segment is None:
        segment = await begin_segment(connection, Log.AUDIT, writer=uuid4().hex, at=at)
    head = await head_of(connection, segment)
    before, rows = head.hash, []
    for position, act in enumerate(acts, start=head.position + 1):
        values = _values(act)
        before = link(before, record(Log.AUDIT, segment.writer, position, [microseconds(at), *values.values()]))
        rows.append(values | {"at": at, "writer": segment.writer, "position": position, "hash": before})
    await connection.execute(insert(audit), rows)


def _values(act: Act) -> dict[str, str | int]:
    """The columns of one act after its time, in the order in which they are hashed."""
    return {
        "actor_kind": act.actor.kind.value,
        "actor": act.actor.name,
        "what": act.what,
        "target": act.target,
        "detail": act.detail,
        "why": act.why,
        "reason": act.reason.value if act.reason is not None else "",
        "count": act.count,
    }
