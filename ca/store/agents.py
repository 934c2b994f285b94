"""Agents and join tokens in SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, Row, bindparam, delete, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.agents.joining import JoinToken, MakeAgent
from ca.agents.model import Agent, JoinedBy
from ca.audit.model import Act
from ca.store.audit import record_act
from ca.store.database import Database
from ca.store.entries import selectors_from_text, selectors_to_text
from ca.store.schema import agents, tokens
from citadel.errors import Reason, Unauthenticated
from citadel.spiffe import SpiffeId

# Ended tokens are kept for a while so that a second use is told apart from a made-up token.
_KEEP_ENDED: Final = timedelta(days=7)


class SqlAgentStore:
    """Fulfils the ports of `ca.agents` for agents: the roster's, and those of whatever changes a row."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def load(self) -> Sequence[Agent]:
        async with self._database.transaction() as connection:
            return [_from_row(row) for row in await connection.execute(select(agents))]

    async def set_keys(self, spiffe_id: SpiffeId, *, key: str, next_key: str | None) -> None:
        # A write that came through after its time was up must not undo a join by another machine in between: both the
        # key that stays and the one that is promoted are on record already.
        is_known = or_(agents.c.key == key, agents.c.next_key == key)
        change = update(agents).where(agents.c.spiffe_id == str(spiffe_id), is_known).values(key=key, next_key=next_key)

        def work(connection: Connection) -> None:
            connection.execute(change)

        await self._database.at_once(work)

    async def record(self, agent: Agent, *acts: Act, at: datetime) -> None:
        async with self._database.transaction() as connection:
            await _put_agent(connection, agent)
            for act in acts:
                await record_act(connection, act, at=at)

    async def remove(self, spiffe_id: SpiffeId, act: Act, *, at: datetime) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(delete(agents).where(agents.c.spiffe_id == str(spiffe_id)))
            await record_act(connection, act, at=at)


class SqlSightings:
    """Fulfils `ca.agents.sightings.SightingStore`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def last_seen(self) -> Mapping[SpiffeId, datetime]:
        known = select(agents.c.spiffe_id, agents.c.last_seen).where(agents.c.last_seen.is_not(None))
        async with self._database.transaction() as connection:
            return {SpiffeId.parse(row.spiffe_id): row.last_seen for row in await connection.execute(known)}

    async def note_seen(self, seen: Mapping[SpiffeId, datetime]) -> None:
        statement = update(agents).where(agents.c.spiffe_id == bindparam("agent")).values(last_seen=bindparam("at"))
        rows = [{"agent": str(spiffe_id), "at": at} for spiffe_id, at in seen.items()]
        async with self._database.transaction() as connection:
            await connection.execute(statement, rows)


class SqlTokenStore:
    """Fulfils `ca.agents.joining.TokenStore`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def add(self, token: JoinToken, act: Act, *, at: datetime) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(
                insert(tokens).values(
                    digest=token.digest,
                    agent_id=str(token.agent),
                    selectors=selectors_to_text(token.selectors),
                    expires_at=token.expires_at,
                )
            )
            await record_act(connection, act, at=at)

    async def exists(self, digest: str) -> bool:
        async with self._database.reading() as connection:
            found = await connection.execute(select(tokens.c.digest).where(tokens.c.digest == digest))
            return found.one_or_none() is not None

    async def redeem(self, digest: str, *, now: datetime, make_agent: MakeAgent) -> Agent:
        async with self._database.transaction() as connection:
            await connection.execute(delete(tokens).where(tokens.c.expires_at < now - _KEEP_ENDED))
            # The update is the lock: of two callers with one token only the first finds it unused.
            used = await connection.execute(
                update(tokens)
                .where(tokens.c.digest == digest, tokens.c.used_at.is_(None), tokens.c.expires_at > now)
                .values(used_at=now)
            )
            row = (await connection.execute(select(tokens).where(tokens.c.digest == digest))).one_or_none()
            if row is None:
                raise Unauthenticated(Reason.TOKEN_UNKNOWN, "there is no such join token")
            agent, act = make_agent(
                JoinToken(
                    digest=digest,
                    agent=SpiffeId.parse(row.agent_id),
                    selectors=selectors_from_text(row.selectors),
                    expires_at=row.expires_at,
                )
            )
            if used.rowcount == 0:
                if row.expires_at <= now:
                    raise _ended(used_before=row.used_at is not None)
                if not await _has_agent(connection, agent.spiffe_id, key=agent.key):
                    raise _ended(used_before=True)
            await _put_agent(connection, agent)
            await record_act(connection, act, at=now)
        return agent


def _ended(*, used_before: bool) -> Unauthenticated:
    fix = "make a new one with `citadel-cli token create`"
    if used_before:
        return Unauthenticated(Reason.TOKEN_USED, "this join token was used already; it works once", fix=fix)
    return Unauthenticated(Reason.TOKEN_EXPIRED, "this join token has expired", fix=fix)


async def _has_agent(connection: AsyncConnection, spiffe_id: SpiffeId, *, key: str) -> bool:
    same = select(agents.c.spiffe_id).where(agents.c.spiffe_id == str(spiffe_id), agents.c.key == key)
    return (await connection.execute(same)).one_or_none() is not None


async def _put_agent(connection: AsyncConnection, agent: Agent) -> None:
    values = {
        "key": agent.key,
        "next_key": agent.next_key,
        "selectors": selectors_to_text(agent.selectors),
        "banned": agent.banned,
        "joined_at": agent.joined_at,
        "joined_by": agent.joined_by.value,
        "ban_reason": agent.ban_reason,
    }
    spiffe_id = str(agent.spiffe_id)
    changed = await connection.execute(update(agents).where(agents.c.spiffe_id == spiffe_id).values(values))
    if changed.rowcount == 0:
        await connection.execute(insert(agents).values(spiffe_id=spiffe_id, **values))


def _from_row(row: Row[tuple[object, ...]]) -> Agent:
    return Agent(
        spiffe_id=SpiffeId.parse(row.spiffe_id),
        key=row.key,
        next_key=row.next_key,
        selectors=selectors_from_text(row.selectors),
        banned=row.banned,
        joined_at=row.joined_at,
        joined_by=JoinedBy(row.joined_by),
        ban_reason=row.ban_reason,
    )
