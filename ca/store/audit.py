"""Writing the audit log, within the transaction of the act that it tells of."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.audit.model import Act
from ca.store.schema import audit


async def record_act(connection: AsyncConnection, act: Act, *, at: datetime) -> None:
    """Note `act` in the transaction of `connection`: it is in the log exactly when it was done."""
    await connection.execute(
        insert(audit).values(
            at=at,
            actor_kind=act.actor.kind.value,
            actor=act.actor.name,
            what=act.what,
            target=act.target,
            detail=act.detail,
            why=act.why,
            reason=act.reason.value if act.reason is not None else "",
            count=act.count,
        )
    )
