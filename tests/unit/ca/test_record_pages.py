"""Looking through the logs: filters, pages that nothing shifts, and an index for each that is asked often."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event

from ca.audit.model import Act, Actor
from ca.ledger.pages import AuditQuery, Cursor, LedgerQuery, RecordedAct, RecordedCertificate
from ca.store.audit import SqlAuditLog
from ca.store.database import Database
from ca.store.pages import SqlRecordPages
from citadel.errors import Reason
from citadel.spiffe import SpiffeId
from tests.unit.ca.records import ROOT, row, write
from tests.unit.ca.values import A_TEST, NODE_1, NODE_2, NOW

WEB, DB = SpiffeId(A_TEST, "/web"), SpiffeId(A_TEST, "/db")
MINUTE = timedelta(minutes=1)


async def certificates(database: Database, **query: Any) -> list[str]:
    found = await SqlRecordPages(database=database).certificates(LedgerQuery(**query), after=None, most=100)
    return [one.row.serial for one in found]


async def acts(database: Database, **query: Any) -> list[str]:
    found = await SqlRecordPages(database=database).acts(AuditQuery(**query), after=None, most=100)
    return [one.act.what for one in found]


@pytest.mark.parametrize(
    ("query", "serials"),
    [
        ({}, ["d", "c", "b", "a"]),
        ({"spiffe_id": WEB}, ["c", "a"]),
        ({"requested_by": NODE_2}, ["d", "c"]),
        ({"serial": "b"}, ["b"]),
        ({"serial": "none"}, []),
        ({"entry_id": "e-2"}, ["d", "b"]),
        ({"since": NOW + MINUTE}, ["d", "c", "b"]),
        ({"until": NOW + 2 * MINUTE}, ["b", "a"]),
        ({"since": NOW + MINUTE, "until": NOW + 2 * MINUTE, "spiffe_id": DB}, ["b"]),
        ({"spiffe_id": WEB, "requested_by": NODE_2, "entry_id": "e-1"}, ["c"]),
    ],
)
async def test_certificates_are_found_by(database: Database, query: dict[str, Any], serials: list[str]) -> None:
    await write(
        database,
        row(serial="a", spiffe_id=WEB, entry_id="e-1", issued_at=NOW),
        row(serial="b", spiffe_id=DB, entry_id="e-2", issued_at=NOW + MINUTE),
        row(NODE_2, serial="c", spiffe_id=WEB, entry_id="e-1", issued_at=NOW + 2 * MINUTE),
        row(NODE_2, serial="d", spiffe_id=DB, entry_id="e-2", issued_at=NOW + 2 * MINUTE),
    )
    assert await certificates(database, **query) == serials


async def test_a_certificate_is_what_was_recorded(database: Database) -> None:
    wanted = row()
    await write(database, wanted)
    (found,) = await SqlRecordPages(database=database).certificates(LedgerQuery(), after=None, most=1)
    assert (found.row, found.position, len(found.writer)) == (wanted, 1, 32)


@pytest.mark.parametrize(
    ("query", "whats"),
    [
        ({}, ["entryx.create", "Join", "agent.ban", "entry.delete", "entry.create"]),
        ({"actor": "uid:0"}, ["entryx.create", "agent.ban", "entry.create"]),
        ({"what": "entry"}, ["entry.delete", "entry.create"]),
        ({"what": "entry.delete"}, ["entry.delete"]),
        ({"target": "node-1"}, ["agent.ban"]),
        ({"refused_only": True}, ["Join"]),
        ({"since": NOW + MINUTE}, ["entryx.create", "Join", "agent.ban"]),
        ({"until": NOW + MINUTE}, ["entry.delete", "entry.create"]),
    ],
)
async def test_acts_are_found_by(database: Database, query: dict[str, Any], whats: list[str]) -> None:
    log = SqlAuditLog(database=database)
    early = [Act(actor=ROOT, what="entry.create"), Act(actor=Actor.identity(NODE_1), what="entry.delete")]
    late = [
        Act(actor=ROOT, what="agent.ban", target="node-1"),
        Act(actor=Actor.identity(NODE_1), what="Join", reason=Reason.TOKEN_UNKNOWN, count=7),
        Act(actor=ROOT, what="entryx.create"),
    ]
    await log.record_all(early, at=NOW)
    await log.record_all(late, at=NOW + MINUTE)
    assert await acts(database, **query) == whats


async def test_an_act_is_what_was_recorded(database: Database) -> None:
    wanted = Act(actor=ROOT, what="w", target="t", detail="d", why="because", reason=Reason.AGENT_BANNED, count=3)
    await SqlAuditLog(database=database).record_all([wanted], at=NOW)
    (found,) = await SqlRecordPages(database=database).acts(AuditQuery(), after=None, most=1)
    assert (found.act, found.at, found.position) == (wanted, NOW, 1)


async def test_pages_hold_each_row_once_whatever_comes_meanwhile(database: Database) -> None:
    pages = SqlRecordPages(database=database)
    await write(database, *(row(serial=f"{n:02}", issued_at=NOW + (n // 4) * MINUTE) for n in range(20)))
    seen: list[RecordedCertificate] = []
    after: Cursor | None = None
    while page := await pages.certificates(LedgerQuery(), after=after, most=3):
        seen += page
        after = Cursor(page[-1].row.issued_at, page[-1].number)
        await write(database, row(issued_at=NOW + timedelta(hours=1)))
    assert [one.row.serial for one in seen] == [f"{n:02}" for n in reversed(range(20))]


def _cursor_of(found: RecordedAct) -> Cursor:
    return Cursor(found.at, found.number)


async def test_pages_of_acts_hold_each_row_once(database: Database) -> None:
    log, pages = SqlAuditLog(database=database), SqlRecordPages(database=database)
    for minute in range(3):
        at: datetime = NOW + minute * MINUTE
        await log.record_all([Act(actor=ROOT, what=f"{minute}.{n}") for n in range(4)], at=at)
    first = await pages.acts(AuditQuery(), after=None, most=5)
    rest = await pages.acts(AuditQuery(), after=_cursor_of(first[-1]), most=100)
    assert [one.act.what for one in (*first, *rest)] == [f"{m}.{n}" for m in (2, 1, 0) for n in (3, 2, 1, 0)]


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (LedgerQuery(), "ix_ledger_issued_at"),
        (LedgerQuery(since=NOW, until=NOW), "ix_ledger_issued_at"),
        (LedgerQuery(entry_id="e"), "ix_ledger_issued_at"),
        (LedgerQuery(spiffe_id=WEB), "ix_ledger_spiffe_id"),
        (LedgerQuery(requested_by=NODE_1), "ix_ledger_requested_by"),
        (LedgerQuery(serial="aa"), "sqlite_autoindex_ledger_1"),
        (AuditQuery(), "ix_audit_at"),
        (AuditQuery(actor="uid:0"), "ix_audit_actor"),
        (AuditQuery(target="node-1"), "ix_audit_target"),
    ],
)
@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)  # PostgreSQL's planner goes by what the tables hold
async def test_a_page_is_read_along_an_index(database: Database, query: LedgerQuery | AuditQuery, index: str) -> None:
    plans: list[str] = []

    def explain(_: Any, cursor: Any, statement: str, parameters: Any, *__: Any) -> None:
        if statement.startswith("SELECT"):
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.extend(str(line[-1]) for line in cursor.fetchall())

    event.listen(database.engine.sync_engine, "before_cursor_execute", explain)
    pages = SqlRecordPages(database=database)
    after = Cursor(NOW, 5)
    if isinstance(query, LedgerQuery):
        await pages.certificates(query, after=after, most=10)
    else:
        await pages.acts(query, after=after, most=10)
    event.remove(database.engine.sync_engine, "before_cursor_execute", explain)
    table = "ledger" if isinstance(query, LedgerQuery) else "audit"
    assert any(index in plan for plan in plans), plans
    assert f"SCAN {table}" not in plans
