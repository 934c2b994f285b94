"""What a backup names and does not hold: keys that are in Vault."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.authority.model import AuthorityState
from ca.keys.transit.naming import is_in_vault
from ca.store.schema import authorities, jwt_authorities


async def keys_in_vault(connection: AsyncConnection) -> int:
    """How many keys of authorities that are not revoked are there, by what this store has on record."""
    found: set[str] = set()
    for table in (authorities, jwt_authorities):
        known = select(table.c.key_id).where(table.c.state != AuthorityState.REVOKED)
        found.update(key_id for key_id in (await connection.execute(known)).scalars() if is_in_vault(key_id))
    return len(found)
