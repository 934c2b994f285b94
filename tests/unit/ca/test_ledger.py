"""The ledger: durable before the answer, at the price of few commits (invariant 2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, event, select, text

from ca.store.database import Database
from ca.store.ledger import SqlLedger
from ca.store.schema import ledger as table
from citadel.errors import PermissionDenied, Reason, Unavailable
from citadel.spiffe import SpiffeId
from tests.unit.ca.records import problems, row, write, writing
from tests.unit.ca.values import NODE_1, NODE_2

pytestmark = pytest.mark.invariant(2)


async def serials(database: Database) -> list[str]:
    async with database.transaction() as connection:
        return [found.serial for found in await connection.execute(select(table.c.serial).order_by(table.c.number))]


async def test_a_row_is_in_the_database_when_append_returns(database: Database, store_url: str) -> None:
    wanted = row()
    async with writing(database) as ledger:
        await ledger.append([wanted])
        other = Database.open(store_url)  # nothing of the writer's memory
        async with other.transaction() as connection:
            (found,) = (await connection.execute(select(table))).mappings()
        await other.close()
    columns = dict(found)
    assert columns.pop("number") == 1
    assert (len(columns.pop("writer")), columns.pop("position"), len(columns.pop("hash"))) == (32, 1, 32)
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


async def test_what_was_revoked_meanwhile_does_not_become_real_and_takes_nothing_from_others(
    database: Database,
) -> None:
    async with writing(database, is_revoked=lambda one: one.entry_id == "revoked") as ledger:
        good, bad = row(), row(entry_id="revoked")
        results = await asyncio.gather(ledger.append([good]), ledger.append([bad]), return_exceptions=True)
    assert results[0] is None
    assert isinstance(results[1], Unavailable)
    assert results[1].reason is Reason.IDENTITY_REVOKED
    assert await serials(database) == [good.serial]


async def test_rows_of_strangers_share_a_commit_and_each_is_refused_alone(database: Database) -> None:
    commits: list[int] = []
    revoked = {"revoked"}
    async with writing(
        database, is_revoked=lambda one: one.entry_id in revoked, banned={NODE_2}, on_commit=commits.append
    ) as ledger:
        rows = [row(), row(entry_id="revoked"), row(NODE_2), row()]
        outcomes = await ledger.append_each(rows)
        assert await ledger.append_each([]) == []
    assert [outcome and outcome.reason for outcome in outcomes] == [
        None,
        Reason.IDENTITY_REVOKED,
        Reason.AGENT_BANNED,
        None,
    ]
    assert await serials(database) == [rows[0].serial, rows[3].serial]
    assert commits == [2]


async def test_strangers_are_all_told_that_nothing_could_be_written(database: Database) -> None:
    async with writing(database) as ledger:
        await ledger.append([row(serial="aa")])
        outcomes = await ledger.append_each([row(), row(serial="aa")])
        assert [outcome and outcome.reason for outcome in outcomes] == [Reason.STORE_UNAVAILABLE] * 2
    behind = SqlLedger(database=database, is_banned=lambda _: False)  # nobody writes
    outcomes = await behind.append_each([row()] * 10_001)
    assert {outcome and outcome.reason for outcome in outcomes} == {Reason.STORE_UNAVAILABLE}
    assert await serials(database) == ["aa"]


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


async def positions(database: Database) -> list[tuple[str, int]]:
    async with database.transaction() as connection:
        found = await connection.execute(select(table.c.writer, table.c.position).order_by(table.c.number))
        return [(row.writer, row.position) for row in found]


async def test_rows_are_chained_in_the_order_of_their_commits_small_and_large(database: Database) -> None:
    async with writing(database) as ledger:
        await asyncio.gather(*(ledger.append([row() for _ in range(size)]) for size in (1, 3, 250, 2)))
        await ledger.append([row()])
    found = await positions(database)
    assert [position for _, position in found] == list(range(1, 258))
    assert len({writer for writer, _ in found}) == 1
    assert await problems(database) == []


async def test_each_run_goes_on_where_the_last_one_ended_as_a_writer_of_its_own(database: Database) -> None:
    for _ in range(3):
        await write(database, row(), row())
    found = await positions(database)
    assert [position for _, position in found] == [1, 2] * 3
    assert len({writer for writer, _ in found}) == 3
    assert await problems(database) == []


async def test_a_commit_that_failed_leaves_no_hole_in_the_chain(database: Database) -> None:
    async with writing(database) as ledger:
        await ledger.append([row(serial="aa")])
        with pytest.raises(Unavailable):
            await ledger.append([row(), row(serial="aa")])
        await ledger.append([row()])
    assert [position for _, position in await positions(database)] == [1, 2]
    assert await problems(database) == []


async def test_a_commit_that_came_through_although_it_seemed_to_fail_is_taken_into_account(
    database: Database, store_url: str
) -> None:
    class LosesAnswers(Database):
        lose = False

        async def at_once(self, work: Callable[[Connection], Any]) -> Any:
            done = await super().at_once(work)
            if self.lose:
                self.lose = False
                raise Unavailable(Reason.STORE_UNAVAILABLE, "the connection was cut after the commit")
            return done

    flaky = LosesAnswers.open(store_url)
    async with writing(flaky) as ledger:
        await ledger.append([row()])
        flaky.lose = True
        with pytest.raises(Unavailable):
            await ledger.append([row()])
        await ledger.append([row()])
    await flaky.close()
    assert [position for _, position in await positions(database)] == [1, 2, 3]
    assert await problems(database) == []


async def test_after_another_server_wrote_a_writer_begins_anew(database: Database) -> None:
    async with writing(database) as ledger:
        await ledger.append([row(serial="aa")])
        await write(database, row(), row())  # it had the lease meanwhile
        with pytest.raises(Unavailable):  # the fence said no
            await ledger.append([row(serial="aa")])
        await ledger.append([row()])
    assert [position for _, position in await positions(database)] == [1, 1, 2, 1]
    assert await problems(database) == []


async def test_who_waits_is_counted(database: Database) -> None:
    ledger = SqlLedger(database=database, is_banned=lambda _: False)
    waiting = [asyncio.create_task(ledger.append([row()] * size)) for size in (2, 3)]
    await asyncio.sleep(0)
    assert ledger.waiting_rows == 5
    for one in waiting:
        one.cancel()
