"""The ledger: durable before the answer, at the price of few commits (invariant 2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import event, select, text

from ca.issuance.ledger import LedgerRow
from ca.store.database import Database
from ca.store.ledger import SqlLedger
from ca.store.schema import ledger as table
from citadel.errors import PermissionDenied, Reason, Unavailable
from citadel.serial import new_serial, serial_hex
from citadel.spiffe import SpiffeId
from tests.unit.ca.values import A_TEST, NODE_1, NODE_2, NOW

pytestmark = pytest.mark.invariant(2)


def row(requested_by: SpiffeId = NODE_1, **changes: object) -> LedgerRow:
    profile: dict[str, object] = {
        "serial": serial_hex(new_serial()),
        "spiffe_id": SpiffeId(A_TEST, "/web"),
        "entry_id": "entry-1",
        "requested_by": requested_by,
        "issuer_id": "i" * 32,
        "public_key": "k" * 64,
        "not_before": NOW,
        "not_after": NOW + timedelta(hours=1),
        "issued_at": NOW,
        "limited_by": "default",
    }
    return LedgerRow(**(profile | changes))  # type: ignore[arg-type] # a table of changes


@asynccontextmanager
async def writing(database: Database, *, banned: set[SpiffeId] | None = None) -> AsyncIterator[SqlLedger]:
    ledger = SqlLedger(database=database, is_banned=(set() if banned is None else banned).__contains__)
    task = asyncio.create_task(ledger.run())
    try:
        yield ledger
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def serials(database: Database) -> list[str]:
    async with database.transaction() as connection:
        return [found.serial for found in await connection.execute(select(table.c.serial).order_by(table.c.number))]


async def test_a_row_is_in_the_file_when_append_returns(database: Database, tmp_path: Path) -> None:
    wanted = row()
    async with writing(database) as ledger:
        await ledger.append([wanted])
        other = Database.open(f"sqlite+aiosqlite:///{tmp_path / 'store.db'}")  # nothing of the writer's memory
        async with other.transaction() as connection:
            (found,) = (await connection.execute(select(table))).mappings()
        await other.close()
    columns = dict(found)
    assert columns.pop("number") == 1
    expected = {name: getattr(wanted, name) for name in columns}
    assert columns == expected | {"spiffe_id": str(wanted.spiffe_id), "requested_by": str(wanted.requested_by)}


async def test_rows_of_concurrent_requests_share_commits(database: Database) -> None:
    commits = 0

    def count(_: object) -> None:
        nonlocal commits
        commits += 1

    event.listen(database.engine.sync_engine, "commit", count)
    rows = [row() for _ in range(200)]
    async with writing(database) as ledger:
        await asyncio.gather(*(ledger.append([one]) for one in rows))
    assert 1 <= commits <= 10
    assert sorted(await serials(database)) == sorted(one.serial for one in rows)


async def test_nothing_to_record_needs_no_commit(database: Database) -> None:
    await SqlLedger(database=database, is_banned=lambda _: False).append([])


async def test_a_store_that_fails_refuses_every_waiter_and_recovers(database: Database) -> None:
    async with writing(database) as ledger:
        async with database.transaction() as connection:
            await connection.execute(text("ALTER TABLE ledger RENAME TO away"))
        results = await asyncio.gather(*(ledger.append([row()]) for _ in range(5)), return_exceptions=True)
        assert [type(result) for result in results] == [Unavailable] * 5
        assert {result.reason for result in results if isinstance(result, Unavailable)} == {Reason.STORE_UNAVAILABLE}
        async with database.transaction() as connection:
            await connection.execute(text("ALTER TABLE away RENAME TO ledger"))
        await ledger.append([good := row()])
    assert await serials(database) == [good.serial]


async def test_a_serial_is_recorded_once(database: Database) -> None:
    async with writing(database) as ledger:
        await ledger.append([row(serial="aa")])
        with pytest.raises(Unavailable):
            await ledger.append([row(serial="aa")])
    assert await serials(database) == ["aa"]


async def test_an_agent_that_is_banned_between_request_and_commit_gets_nothing(database: Database) -> None:
    banned: set[SpiffeId] = set()
    async with writing(database, banned=banned) as ledger:
        good = row(NODE_2)
        waiting = [asyncio.create_task(ledger.append(rows)) for rows in ([row(), row()], [good])]
        await asyncio.sleep(0)  # both wait for the commit now
        banned.add(NODE_1)
        refused, taken = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(refused, PermissionDenied)
    assert refused.reason is Reason.AGENT_BANNED
    assert taken is None
    assert await serials(database) == [good.serial]


async def test_nobody_is_left_waiting_when_the_ledger_stops(database: Database) -> None:
    async with writing(database) as ledger:
        waiting = asyncio.create_task(ledger.append([row()]))
        await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await waiting
    assert await serials(database) == []


async def test_a_caller_that_gave_up_leaves_the_others_unharmed(database: Database) -> None:
    async with writing(database) as ledger:
        impatient = asyncio.create_task(ledger.append([row()]))
        patient = asyncio.create_task(ledger.append([good := row()]))
        await asyncio.sleep(0)
        impatient.cancel()
        await patient
    assert good.serial in await serials(database)


async def test_a_ledger_that_falls_behind_says_so(database: Database) -> None:
    ledger = SqlLedger(database=database, is_banned=lambda _: False)  # nobody writes
    waiting = asyncio.create_task(ledger.append([row()] * 10_000))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable) as refused:
        await ledger.append([row()])
    assert refused.value.reason is Reason.STORE_UNAVAILABLE
    waiting.cancel()
