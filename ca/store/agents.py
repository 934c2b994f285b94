"""Agents and join tokens in SQL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.agents.joining import JoinToken
from ca.agents.model import Agent
from ca.store.database import Database
from ca.store.entries import selectors_from_text, selectors_to_text
from ca.store.schema import agents, tokens
from citadel.errors import Reason, Unauthenticated
from citadel.spiffe import SpiffeId

# Ended tokens are kept for a while so that a second use is told apart from a made-up token.
_KEEP_ENDED: Final = timedelta(days=7)


class SqlAgentStore:
    """Fulfils `ca.agents.roster.AgentStore`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def load(self) -> Sequence[Agent]:
        async with self._database.transaction() as connection:
            return [_from_row(row) for row in await connection.execute(select(agents))]

    async def set_keys(self, spiffe_id: SpiffeId, *, key: str, next_key: str | None) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(
                update(agents).where(agents.c.spiffe_id == str(spiffe_id)).values(key=key, next_key=next_key)
            )


class SqlTokenStore:
    """Fulfils `ca.agents.joining.TokenStore`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def add(self, token: JoinToken) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(
                insert(tokens).values(
                    digest=token.digest,
                    agent_id=str(token.agent),
                    selectors=selectors_to_text(token.selectors),
                    expires_at=token.expires_at,
                )
            )

    async def redeem(self, digest: str, *, now: datetime, make_agent: Callable[[JoinToken], Agent]) -> Agent:
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
            agent = make_agent(
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
            await _replace_agent(connection, agent)
        return agent


def _ended(*, used_before: bool) -> Unauthenticated:
    fix = "make a new one with `citadel-cli token create`"
    if used_before:
        return Unauthenticated(Reason.TOKEN_USED, "this join token was used already; it works once", fix=fix)
    return Unauthenticated(Reason.TOKEN_EXPIRED, "this join token has expired", fix=fix)


async def _has_agent(connection: AsyncConnection, spiffe_id: SpiffeId, *, key: str) -> bool:
    same = select(agents.c.spiffe_id).where(agents.c.spiffe_id == str(spiffe_id), agents.c.key == key)
    return (await connection.execute(same)).one_or_none() is not None


async def _replace_agent(connection: AsyncConnection, agent: Agent) -> None:
    await connection.execute(delete(agents).where(agents.c.spiffe_id == str(agent.spiffe_id)))
    await connection.execute(
        insert(agents).values(
            spiffe_id=str(agent.spiffe_id),
            key=agent.key,
            next_key=agent.next_key,
            selectors=selectors_to_text(agent.selectors),
            banned=agent.banned,
            joined_at=agent.joined_at,
        )
    )


def _from_row(row: Row[tuple[object, ...]]) -> Agent:
    return Agent(
        spiffe_id=SpiffeId.parse(row.spiffe_id),
        key=row.key,
        next_key=row.next_key,
        selectors=selectors_from_text(row.selectors),
        banned=row.banned,
        joined_at=row.joined_at,
    )
