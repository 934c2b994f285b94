"""Entries in SQL."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.database import Database
from ca.store.schema import entries, events
from citadel.entry import Entry
from citadel.errors import AlreadyExists, Reason
from citadel.selector import Selector
from citadel.spiffe import SpiffeId, TrustDomain


class SqlEntryStore:
    """Fulfils `ca.entries.registry.EntryStore`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def load(self) -> tuple[Sequence[Entry], int]:
        async with self._database.transaction() as connection:
            rows = await connection.execute(select(entries).order_by(entries.c.created_at, entries.c.id))
            found = [_from_row(row) for row in rows]
            revision = await connection.scalar(select(func.max(events.c.revision)))
        return found, int(revision or 0)

    async def create(self, entry: Entry) -> int:
        values = _to_row(entry)
        async with self._database.transaction() as connection:
            same = select(entries.c.id).where(entries.c.identity == values["identity"])
            existing = await connection.scalar(same)
            if existing is not None:
                raise AlreadyExists(
                    Reason.ENTRY_DUPLICATE,
                    f"entry {existing} has the same SPIFFE ID, parent and selectors",
                    fix=f"look at it with `citadel-cli entry show {existing}`",
                )
            await connection.execute(insert(entries).values(**values))
            return await _add_event(connection, "entry-created", entry.id)

    async def delete(self, entry: Entry) -> int:
        async with self._database.transaction() as connection:
            await connection.execute(delete(entries).where(entries.c.id == entry.id))
            return await _add_event(connection, "entry-deleted", entry.id)


async def _add_event(connection: AsyncConnection, kind: str, subject: str) -> int:
    result = await connection.execute(insert(events).values(kind=kind, subject=subject).returning(events.c.revision))
    return int(result.scalar_one())


def _identity(entry: Entry) -> str:
    parts = [str(entry.spiffe_id), str(entry.parent_id), *sorted(map(str, entry.selectors))]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _to_row(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "identity": _identity(entry),
        "spiffe_id": str(entry.spiffe_id),
        "parent_id": str(entry.parent_id),
        "selectors": selectors_to_text(entry.selectors),
        "x509_svid_ttl": entry.x509_svid_ttl,
        "jwt_svid_ttl": entry.jwt_svid_ttl,
        "dns_names": json.dumps(entry.dns_names),
        "federates_with": json.dumps(sorted(domain.name for domain in entry.federates_with)),
        "hint": entry.hint,
        "expires_at": entry.expires_at,
        "admin": entry.admin,
        "downstream": entry.downstream,
        "revision": entry.revision,
        "created_at": entry.created_at,
    }


def _from_row(row: Row[tuple[object, ...]]) -> Entry:
    return Entry(
        id=row.id,
        spiffe_id=SpiffeId.parse(row.spiffe_id),
        parent_id=SpiffeId.parse(row.parent_id),
        selectors=selectors_from_text(row.selectors),
        x509_svid_ttl=row.x509_svid_ttl,
        jwt_svid_ttl=row.jwt_svid_ttl,
        dns_names=tuple(json.loads(row.dns_names)),
        federates_with=frozenset(TrustDomain.parse(name) for name in json.loads(row.federates_with)),
        hint=row.hint,
        expires_at=row.expires_at,
        admin=row.admin,
        downstream=row.downstream,
        revision=row.revision,
        created_at=row.created_at,
    )


def selectors_to_text(selectors: frozenset[Selector]) -> str:
    """Selectors as a sorted JSON array."""
    return json.dumps(sorted(map(str, selectors)))


def selectors_from_text(text: str) -> frozenset[Selector]:
    """The inverse of `selectors_to_text`."""
    return frozenset(Selector.parse(selector) for selector in json.loads(text))
