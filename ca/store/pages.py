"""Looking through the logs in SQL, by keyset: a page costs the same wherever it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Row, RowMapping, Select, Table, and_, or_, select

from ca.audit.model import Act, Actor, ActorKind
from ca.issuance.ledger import LedgerRow
from ca.ledger.pages import AuditQuery, Cursor, LedgerQuery, RecordedAct, RecordedCertificate
from ca.store.database import Database
from ca.store.schema import audit, ledger
from citadel.rpc import reason_of
from citadel.spiffe import SpiffeId


class SqlRecordPages:
    """Reads; changes nothing."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def certificates(
        self, query: LedgerQuery, *, after: Cursor | None, most: int
    ) -> Sequence[RecordedCertificate]:
        """At most `most` rows of the ledger after `after`, newest first."""
        wanted: list[ColumnElement[bool]] = []
        if query.spiffe_id is not None:
            wanted.append(ledger.c.spiffe_id == str(query.spiffe_id))
        if query.requested_by is not None:
            wanted.append(ledger.c.requested_by == str(query.requested_by))
        if query.serial:
            wanted.append(ledger.c.serial == query.serial)
        if query.entry_id:
            wanted.append(ledger.c.entry_id == query.entry_id)
        page = _page(ledger, ledger.c.issued_at, query, after).where(*wanted).limit(most)
        async with self._database.reading() as connection:
            return [_certificate(row) for row in await connection.execute(page)]

    async def acts(self, query: AuditQuery, *, after: Cursor | None, most: int) -> Sequence[RecordedAct]:
        """At most `most` rows of the audit log after `after`, newest first."""
        wanted: list[ColumnElement[bool]] = []
        if query.actor:
            wanted.append(audit.c.actor == query.actor)
        if query.what:
            # As a range, since an index serves no LIKE in every database: "/" comes after ".".
            inside = and_(audit.c.what >= f"{query.what}.", audit.c.what < f"{query.what}/")
            wanted.append(or_(audit.c.what == query.what, inside))
        if query.target:
            wanted.append(audit.c.target == query.target)
        if query.refused_only:
            wanted.append(audit.c.reason != "")
        page = _page(audit, audit.c.at, query, after).where(*wanted).limit(most)
        async with self._database.reading() as connection:
            return [_act(row) for row in (await connection.execute(page)).mappings()]


def _page(table: Table, at: Column[Any], query: LedgerQuery | AuditQuery, after: Cursor | None) -> Select[Any]:
    number = table.c.number
    page = select(table).order_by(at.desc(), number.desc())
    if query.since is not None:
        page = page.where(at >= query.since)
    if query.until is not None:
        page = page.where(at < query.until)
    if after is not None:
        # The first half lets an index bound the time; a comparison of pairs is not known to every database.
        page = page.where(at <= after.at, or_(at < after.at, number < after.number))
    return page


def _certificate(row: Row[Any]) -> RecordedCertificate:
    return RecordedCertificate(
        number=row.number,
        writer=row.writer or "",
        position=row.position or 0,
        row=LedgerRow(
            serial=row.serial,
            spiffe_id=SpiffeId.parse(row.spiffe_id),
            entry_id=row.entry_id,
            requested_by=SpiffeId.parse(row.requested_by),
            issuer_id=row.issuer_id,
            public_key=row.public_key,
            not_before=row.not_before,
            not_after=row.not_after,
            issued_at=row.issued_at,
            limited_by=row.limited_by,
        ),
    )


def _act(row: RowMapping) -> RecordedAct:
    return RecordedAct(
        number=row["number"],
        at=row["at"],
        writer=row["writer"],
        position=row["position"],
        act=Act(
            actor=Actor(ActorKind(row["actor_kind"]), row["actor"]),
            what=row["what"],
            target=row["target"],
            detail=row["detail"],
            why=row["why"],
            reason=reason_of(row["reason"]) if row["reason"] else None,
            count=row["count"],
        ),
    )
