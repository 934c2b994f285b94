"""Entries in SQL."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, bindparam, delete, func, insert, select, update

from ca.audit.model import Act
from ca.entries.changes import ChangeKind, EntryChange
from ca.store.audit import record_acts
from ca.store.database import Database
from ca.store.schema import entries, events, foreign_bundles
from citadel.entry import Entry
from citadel.selector import Selector
from citadel.spiffe import SpiffeId, TrustDomain

_MOST_IN_QUERY: Final = 500
_MOST_EVENTS: Final = 10_000  # what pods bring about never ends, and of what is past only the number counts


class SqlEntryStore:
    """Fulfils `ca.entries.registry.EntryStore`."""

    def __init__(self, *, database: Database, most_events: int = _MOST_EVENTS) -> None:
        self._database = database
        self._most_events = most_events

    async def load(self, keep: Callable[[Entry], Entry]) -> tuple[Sequence[Entry], int]:
        async with self._database.transaction() as connection:
            rows = await connection.stream(select(entries).order_by(entries.c.created_at, entries.c.id))
            found = [keep(_from_row(row)) async for row in rows]
            revision = await connection.scalar(select(func.max(events.c.revision)))
        return found, int(revision or 0)

    async def same_as(self, wanted: Sequence[Entry]) -> Sequence[str | None]:
        identities = await asyncio.to_thread(lambda: [_identity(entry) for entry in wanted])
        found: dict[str, str] = {}
        async with self._database.transaction() as connection:
            for start in range(0, len(identities), _MOST_IN_QUERY):
                some = identities[start : start + _MOST_IN_QUERY]
                rows = await connection.execute(
                    select(entries.c.identity, entries.c.id).where(entries.c.identity.in_(some))
                )
                found.update((row.identity, row.id) for row in rows)
        return [found.get(identity) for identity in identities]

    async def commit(
        self,
        changes: Sequence[EntryChange],
        *,
        acts: Sequence[Act],
        at: datetime,
        forgotten: TrustDomain | None = None,
    ) -> int:
        made, changed, gone = await asyncio.to_thread(_rows, changes)
        async with self._database.transaction() as connection:
            if gone:
                await connection.execute(delete(entries).where(entries.c.id == bindparam("key")), gone)
            if len(changed) > 1:
                # Two entries may exchange what can exist once: nobody has it while they do.
                parked = [{"key": row["key"], "identity": row["key"]} for row in changed]
                await connection.execute(update(entries).where(entries.c.id == bindparam("key")), parked)
            if changed:
                await connection.execute(update(entries).where(entries.c.id == bindparam("key")), changed)
            if made:
                await connection.execute(insert(entries), made)
            if forgotten is not None:
                of_domain = foreign_bundles.c.trust_domain == forgotten.name
                await connection.execute(delete(foreign_bundles).where(of_domain))
            if changes:
                told = [{"kind": f"entry-{change.kind}", "subject": change.entry.id} for change in changes]
                await connection.execute(insert(events), told)
                newest = select(func.max(events.c.revision)).scalar_subquery()
                await connection.execute(delete(events).where(events.c.revision < newest - self._most_events))
            await record_acts(connection, acts, at=at)
            return int(await connection.scalar(select(func.max(events.c.revision))) or 0)


def _rows(changes: Sequence[EntryChange]) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """What to insert, to update and to delete; `key` is the id in the condition."""
    made = [_to_row(change.entry) for change in changes if change.kind is ChangeKind.CREATED]
    gone = [{"key": change.entry.id} for change in changes if change.kind is ChangeKind.DELETED]
    changed = []
    for change in changes:
        if change.kind is ChangeKind.UPDATED:
            row = _to_row(change.entry)
            changed.append({"key": row.pop("id"), **row})
    return made, changed, gone


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
        "origin": entry.origin,
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
        origin=row.origin,
    )


def selectors_to_text(selectors: frozenset[Selector]) -> str:
    """Selectors as a sorted JSON array."""
    return json.dumps(sorted(map(str, selectors)))


def selectors_from_text(text: str) -> frozenset[Selector]:
    """The inverse of `selectors_to_text`."""
    return frozenset(Selector.parse(selector) for selector in json.loads(text))
