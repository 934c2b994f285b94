"""The lease and its fence on real databases: of two servers one writes, whatever the other one believes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, inspect, select, text

from ca.lease.model import Holder, Lease
from ca.store.database import Database
from ca.store.engines import make_engine
from ca.store.lease import LeaseFence, SqlLeaseStore
from ca.store.schema import bundles
from ca.store.schema import lease as table
from citadel.errors import Reason, Unavailable
from tests.postgres import Postgres

DURATION = timedelta(seconds=30)
ONE, TWO = Holder(id="1" * 32, name="one"), Holder(id="2" * 32, name="two")


@pytest.fixture
async def other(store_url: str) -> AsyncIterator[Database]:
    """The same database, as another process has it."""
    made = Database.open(store_url)
    yield made
    await made.close()


async def taken(database: Database, holder: Holder = ONE, *, duration: timedelta = DURATION) -> Lease:
    lease = await SqlLeaseStore(database=database).take(holder, duration=duration, returning=False)
    assert lease is not None
    return lease


async def end_it(database: Database) -> None:
    """As if its holder had been silent for long."""
    async with database.transaction() as connection:
        await connection.execute(table.update().values(expires_at=datetime(2026, 1, 1, tzinfo=UTC)))


async def write(database: Database, name: str = "a.test") -> None:
    async with database.transaction() as connection:
        await connection.execute(bundles.insert().values(trust_domain=name, sequence=1, digest="d"))


async def write_at_once(database: Database, name: str) -> None:
    row = bundles.insert().values(trust_domain=name, sequence=1, digest="d")
    await database.at_once(lambda connection: connection.execute(row))


async def written(database: Database) -> int:
    async with database.reading() as connection:
        return int(await connection.scalar(select(func.count()).select_from(bundles)) or 0)


async def test_a_new_store_gets_room_for_the_lease_and_the_rest_from_its_owner(store_url: str) -> None:
    database = Database.open(store_url)
    store = SqlLeaseStore(database=database)
    await store.prepare()
    await store.prepare()
    async with database.reading() as connection:
        names = set(await connection.run_sync(lambda plain: inspect(plain).get_table_names()))
    assert "lease" in names
    assert "audit" not in names
    assert (await store.look()).lease is None
    await taken(database)
    await database.migrate()
    assert (await store.look()).lease is not None
    await database.close()


async def test_two_servers_that_start_on_one_empty_store_both_come_up(store_url: str) -> None:
    databases = [Database.open(store_url), Database.open(store_url)]
    await asyncio.gather(*(SqlLeaseStore(database=database).prepare() for database in databases))
    found = await asyncio.gather(
        *(
            SqlLeaseStore(database=database).take(holder, duration=DURATION, returning=True)
            for database, holder in zip(databases, (ONE, TWO), strict=True)
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(lease, Lease) for lease in found) == 1
    for database in databases:
        await database.close()


async def test_one_holds_it_until_its_end_by_the_clock_of_the_database(database: Database, other: Database) -> None:
    first = await taken(database, duration=timedelta(seconds=1))
    store = SqlLeaseStore(database=other)
    sight = await store.look()
    assert sight.lease == first
    assert timedelta(0) < sight.remaining() <= timedelta(seconds=1)
    assert await store.take(TWO, duration=DURATION, returning=True) is None
    await end_it(other)
    second = await taken(other, TWO)
    assert second.epoch == first.epoch + 1


async def test_only_its_holder_renews_and_releases_it(database: Database, other: Database) -> None:
    one, two = SqlLeaseStore(database=database), SqlLeaseStore(database=other)
    first = await taken(database)
    assert await one.renew(first)
    await one.release(first)
    second = await taken(other, TWO)
    assert not await one.renew(first)
    await one.release(first)
    assert (await two.look()).lease == second
    assert await two.renew(second)


@pytest.mark.invariant(2)
@pytest.mark.parametrize("write", [write, write_at_once])
async def test_a_server_whose_lease_was_taken_writes_nothing(
    database: Database, other: Database, write: Callable[[Database, str], Awaitable[None]]
) -> None:
    told: list[str] = []
    first = database.fenced(LeaseFence(await taken(database), on_lost=lambda: told.append("lost")))
    await write(first, "a.test")
    await end_it(other)
    await write(first, "b.test")  # an end that nobody used is no loss
    assert told == []
    await taken(other, TWO)
    with pytest.raises(Unavailable) as refused:
        await write(first, "c.test")
    assert refused.value.reason is Reason.LEASE_LOST
    assert told == ["lost"]
    assert await written(other) == 2


async def test_a_lease_taken_again_by_its_own_holder_fences_the_one_before(database: Database, other: Database) -> None:
    before = database.fenced(LeaseFence(await taken(database), on_lost=lambda: None))
    await SqlLeaseStore(database=other).take(ONE, duration=DURATION, returning=True)
    with pytest.raises(Unavailable):
        await write(before)


@pytest.mark.invariant(2)
async def test_who_takes_the_lease_waits_for_what_the_holder_is_writing(database: Database, other: Database) -> None:
    first = database.fenced(LeaseFence(await taken(database), on_lost=lambda: None))
    await end_it(other)
    async with first.transaction() as connection:
        await connection.execute(bundles.insert().values(trust_domain="a.test", sequence=1, digest="d"))
        taking = asyncio.create_task(taken(other, TWO))
        await asyncio.sleep(0.2)
        assert not taking.done(), "or its ledger could miss a row that is answered"
    await taking
    assert await written(other) == 1


async def test_a_holder_writes_and_renews_at_once(postgres: Postgres) -> None:
    """On PostgreSQL; SQLite has one writer at a time."""
    database = Database.open(postgres.create_database())
    await database.migrate()
    lease = await taken(database)
    fenced = database.fenced(LeaseFence(lease, on_lost=lambda: None))
    async with asyncio.timeout(2), fenced.transaction(), fenced.transaction():
        assert await SqlLeaseStore(database=database).renew(lease)
    await database.close()


@pytest.mark.invariant(2)
async def test_a_holder_that_was_stopped_within_a_transaction_holds_nobody_up_and_writes_nothing(
    postgres: Postgres,
) -> None:
    """On PostgreSQL, which ends the session; SQLite's lock ends with its process only."""
    url = postgres.create_database()
    database, other = Database.open(url), Database.open(url)
    await database.migrate()
    first = database.fenced(LeaseFence(await taken(database), on_lost=lambda: None))
    await end_it(other)

    async def stopped_meanwhile() -> None:
        async with first.transaction() as connection:
            await connection.execute(bundles.insert().values(trust_domain="a.test", sequence=1, digest="d"))
            begun = time.monotonic()
            await taken(other, TWO)
            assert time.monotonic() - begun < 4.5

    with pytest.raises(Unavailable):
        await stopped_meanwhile()
    assert await written(other) == 0
    for one in (database, other):
        await one.close()


async def test_the_clock_of_the_database_is_the_time(database: Database) -> None:
    sight = await SqlLeaseStore(database=database).look()
    assert abs(sight.now.timestamp() - time.time()) < 5


async def test_urls_of_libpq_are_understood(postgres: Postgres) -> None:
    plain = postgres.create_database()
    for url in (plain, plain + "?sslmode=disable", plain.replace("postgresql:", "postgresql+asyncpg:")):
        engine = make_engine(url)
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT 1")) == 1
        await engine.dispose()
