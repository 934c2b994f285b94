"""Entries are durable before anybody sees them, exist once, and come back after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from ca.entries.directory import EntryDirectory
from ca.entries.registry import EntryRegistry
from ca.store.database import Database
from ca.store.entries import SqlEntryStore
from citadel.entry import Entry
from citadel.errors import AlreadyExists, InvalidArgument, NotFound, Reason, Unavailable
from citadel.spiffe import TrustDomain
from tests.clock import FakeClock
from tests.unit.ca.values import A_TEST, NODE_2, SERVER, entry

FULL = entry(
    "/web",
    NODE_2,
    "unix:uid:1000",
    "unix:path:/usr/bin/envoy",
    x509_svid_ttl=timedelta(seconds=90),
    jwt_svid_ttl=timedelta(minutes=5),
    dns_names=("web.a.test", "Web"),
    federates_with=frozenset({TrustDomain("b.test"), TrustDomain("c.test")}),
    hint="über",
    admin=True,
    downstream=True,
)


async def started(database: Database, clock: FakeClock) -> tuple[EntryRegistry, EntryDirectory]:
    directory = EntryDirectory(trust_domain=A_TEST)
    registry = EntryRegistry(
        trust_domain=A_TEST, store=SqlEntryStore(database=database), directory=directory, clock=clock
    )
    await registry.start()
    return registry, directory


async def test_id_revision_and_time_of_creation_are_the_server_s_to_set(database: Database, clock: FakeClock) -> None:
    registry, _ = await started(database, clock)
    made = await registry.create(replace(FULL, id="chosen", revision=99, created_at=None))
    assert made.id != "chosen"
    assert (made.revision, made.created_at) == (1, clock.now())


@pytest.mark.spec("ID-19")
@pytest.mark.parametrize(
    "wanted",
    [
        FULL,
        entry(),
        entry("/" + "p" * 2032),
        entry("/nodes/a", SERVER, "node:rack:a"),
        entry(expires_at=entry().created_at + timedelta(days=1)),  # type: ignore[operator] # `values` sets it
    ],
)
async def test_an_entry_comes_back_whole_after_a_restart(database: Database, clock: FakeClock, wanted: Entry) -> None:
    registry, directory = await started(database, clock)
    made = await registry.create(wanted)
    assert replace(made, id=wanted.id, created_at=wanted.created_at) == wanted
    _, again = await started(database, clock)
    assert again.all() == directory.all() == {made.id: made}
    assert again.revision == directory.revision == 1


async def test_a_duplicate_is_refused_with_the_id_of_the_first(database: Database, clock: FakeClock) -> None:
    registry, directory = await started(database, clock)
    first = await registry.create(FULL)
    with pytest.raises(AlreadyExists) as refused:
        await registry.create(replace(FULL, hint="another", dns_names=()))
    assert refused.value.reason is Reason.ENTRY_DUPLICATE
    assert first.id in refused.value.message
    assert len(directory) == 1


@pytest.mark.parametrize(
    "other",
    [
        replace(FULL, selectors=frozenset(list(FULL.selectors)[:1])),
        replace(FULL, spiffe_id=entry("/other").spiffe_id),
        replace(FULL, parent_id=entry().parent_id),
    ],
)
async def test_another_identity_parent_or_set_of_selectors_is_another_entry(
    database: Database, clock: FakeClock, other: Entry
) -> None:
    registry, directory = await started(database, clock)
    await registry.create(FULL)
    await registry.create(other)
    assert len(directory) == 2


async def test_of_two_at_once_one_wins(database: Database, clock: FakeClock) -> None:
    registry, directory = await started(database, clock)
    results = await asyncio.gather(registry.create(FULL), registry.create(FULL), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["AlreadyExists", "Entry"]
    assert len(directory) == 1


async def test_a_deleted_entry_is_gone_for_good_and_revisions_only_rise(database: Database, clock: FakeClock) -> None:
    registry, directory = await started(database, clock)
    made = await registry.create(FULL)
    assert await registry.delete(made.id) == made
    assert directory.revision == 2
    with pytest.raises(NotFound) as refused:
        await registry.delete(made.id)
    assert refused.value.reason is Reason.ENTRY_NOT_FOUND
    _, again = await started(database, clock)
    assert (len(again), again.revision) == (0, 2)
    await registry.create(FULL)
    assert directory.revision == 3


async def test_a_refused_entry_leaves_no_trace(database: Database, clock: FakeClock) -> None:
    registry, directory = await started(database, clock)
    with pytest.raises(InvalidArgument):
        await registry.create(replace(FULL, selectors=frozenset()))
    _, again = await started(database, clock)
    assert len(directory) == len(again) == directory.revision == 0


@pytest.mark.invariant(12)
async def test_nobody_sees_an_entry_that_the_store_did_not_take(database: Database, clock: FakeClock) -> None:
    registry, directory = await started(database, clock)
    made = await registry.create(FULL)
    async with database.transaction() as connection:
        await connection.execute(text("ALTER TABLE event RENAME TO away"))
    with pytest.raises(Unavailable):
        await registry.create(entry("/new"))
    with pytest.raises(Unavailable):
        await registry.delete(made.id)
    assert directory.all() == {made.id: made}
    async with database.transaction() as connection:
        await connection.execute(text("ALTER TABLE away RENAME TO event"))
    _, again = await started(database, clock)
    assert again.all() == {made.id: made}, "the row and its event are one transaction"


class WaitingStore(SqlEntryStore):
    """A real store that holds its answer back after the commit."""

    def __init__(self, *, database: Database) -> None:
        super().__init__(database=database)
        self.committed, self.may_answer = asyncio.Event(), asyncio.Event()

    async def create(self, entry: Entry) -> int:
        return await self._hold(await super().create(entry))

    async def delete(self, entry: Entry) -> int:
        return await self._hold(await super().delete(entry))

    async def _hold(self, revision: int) -> int:
        self.committed.set()
        await self.may_answer.wait()
        return revision


@pytest.mark.invariant(12)
async def test_a_caller_that_goes_away_leaves_store_and_memory_the_same(database: Database, clock: FakeClock) -> None:
    directory, store = EntryDirectory(trust_domain=A_TEST), WaitingStore(database=database)
    registry = EntryRegistry(trust_domain=A_TEST, store=store, directory=directory, clock=clock)

    async def abandon(call: Coroutine[Any, Any, Entry]) -> None:
        store.committed.clear()
        store.may_answer.clear()
        task = asyncio.create_task(call)
        await store.committed.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        store.may_answer.set()
        while [entry.id for entry in (await store.load())[0]] != list(directory.all()):
            await asyncio.sleep(0)

    await abandon(registry.create(FULL))
    [entry_id] = directory.all()
    await abandon(registry.delete(entry_id))
    assert not directory.all()
