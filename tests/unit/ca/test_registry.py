"""Entries are durable before anybody sees them, exist once, and come back after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, text

from ca.audit.model import Act, Actor
from ca.entries.changes import EntryChange
from ca.entries.directory import EntryDirectory
from ca.entries.registry import EntryRegistry
from ca.store.database import Database
from ca.store.entries import SqlEntryStore
from ca.store.schema import audit, events
from citadel.entry import Entry
from citadel.errors import AlreadyExists, CitadelError, InvalidArgument, NotFound, Reason, Unavailable
from citadel.spiffe import TrustDomain
from tests.clock import FakeClock
from tests.unit.ca.values import A_TEST, NODE_2, SERVER, entry

ROOT = Actor.local(0)
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
    made = await registry.create(replace(FULL, id="chosen", revision=99, created_at=None), by=ROOT)
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
    made = await registry.create(wanted, by=ROOT)
    assert replace(made, id=wanted.id, created_at=wanted.created_at) == wanted
    _, again = await started(database, clock)
    assert again.all() == directory.all() == {made.id: made}
    assert again.revision == directory.revision == 1


async def test_a_duplicate_is_refused_with_the_id_of_the_first(database: Database, clock: FakeClock) -> None:
    registry, directory = await started(database, clock)
    first = await registry.create(FULL, by=ROOT)
    with pytest.raises(AlreadyExists) as refused:
        await registry.create(replace(FULL, hint="another", dns_names=()), by=ROOT)
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
    await registry.create(FULL, by=ROOT)
    await registry.create(other, by=ROOT)
    assert len(directory) == 2


async def test_of_two_at_once_one_wins(database: Database, clock: FakeClock) -> None:
    registry, directory = await started(database, clock)
    results = await asyncio.gather(
        registry.create(FULL, by=ROOT), registry.create(FULL, by=ROOT), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["AlreadyExists", "Entry"]
    assert len(directory) == 1


async def test_a_deleted_entry_is_gone_for_good_and_revisions_only_rise(database: Database, clock: FakeClock) -> None:
    registry, directory = await started(database, clock)
    made = await registry.create(FULL, by=ROOT)
    assert await registry.delete(made.id, by=ROOT) == made
    assert directory.revision == 2
    with pytest.raises(NotFound) as refused:
        await registry.delete(made.id, by=ROOT)
    assert refused.value.reason is Reason.ENTRY_NOT_FOUND
    _, again = await started(database, clock)
    assert (len(again), again.revision) == (0, 2)
    await registry.create(FULL, by=ROOT)
    assert directory.revision == 3


async def test_a_refused_entry_leaves_no_trace(database: Database, clock: FakeClock) -> None:
    registry, directory = await started(database, clock)
    with pytest.raises(InvalidArgument):
        await registry.create(replace(FULL, selectors=frozenset()), by=ROOT)
    _, again = await started(database, clock)
    assert len(directory) == len(again) == directory.revision == 0


@pytest.mark.invariant(12)
async def test_nobody_sees_an_entry_that_the_store_did_not_take(database: Database, clock: FakeClock) -> None:
    registry, directory = await started(database, clock)
    made = await registry.create(FULL, by=ROOT)
    async with database.transaction() as connection:
        await connection.execute(text("ALTER TABLE event RENAME TO away"))
    with pytest.raises(Unavailable):
        await registry.create(entry("/new"), by=ROOT)
    with pytest.raises(Unavailable):
        await registry.delete(made.id, by=ROOT)
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

    async def commit(
        self,
        changes: Sequence[EntryChange],
        *,
        acts: Sequence[Act],
        at: datetime,
        forgotten: TrustDomain | None = None,
    ) -> int:
        revision = await super().commit(changes, acts=acts, at=at, forgotten=forgotten)
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
        while [entry.id for entry in (await store.load(directory.shared))[0]] != list(directory.all()):
            await asyncio.sleep(0)

    await abandon(registry.create(FULL, by=ROOT))
    [entry_id] = directory.all()
    await abandon(registry.delete(entry_id, by=ROOT))
    assert not directory.all()


async def test_one_refusal_among_many_at_once_takes_nothing_from_the_others(
    database: Database, clock: FakeClock
) -> None:
    registry, directory = await started(database, clock)
    first = await registry.create(entry("/first"), by=ROOT)
    results = await asyncio.gather(
        *(registry.create(entry(f"/w{number}"), by=ROOT) for number in range(5)),
        registry.create(entry("/citadel/x"), by=ROOT),
        registry.create(entry("/first"), by=ROOT),
        registry.update(replace(first, hint="x", revision=7), by=ROOT),
        return_exceptions=True,
    )
    reasons = [result.reason for result in results if isinstance(result, CitadelError)]
    assert reasons == [Reason.ENTRY_RESERVED_ID, Reason.ENTRY_DUPLICATE, Reason.ENTRY_CHANGED]
    assert len(directory) == 6
    _, again = await started(database, clock)
    assert again.all() == directory.all()


async def test_changes_of_one_entry_at_once_are_made_one_after_the_other(database: Database, clock: FakeClock) -> None:
    registry, directory = await started(database, clock)
    made = await registry.create(FULL, by=ROOT)
    results = await asyncio.gather(
        registry.update(replace(made, hint="a"), by=ROOT),
        registry.update(replace(made, hint="b"), by=ROOT),
        registry.delete(made.id, by=ROOT),
        registry.delete(made.id, by=ROOT),
        registry.create(FULL, by=ROOT),
        return_exceptions=True,
    )
    assert isinstance(results[0], Entry)
    assert [result.reason for result in results if isinstance(result, CitadelError)] == [
        Reason.ENTRY_CHANGED,
        Reason.ENTRY_NOT_FOUND,
    ]
    assert isinstance(results[4], Entry), "what was deleted before may be made anew"
    assert set(directory.all()) == {results[4].id}


async def test_every_change_is_in_the_audit_log_with_its_actor(database: Database, clock: FakeClock) -> None:
    registry, _ = await started(database, clock)
    made = await registry.create(FULL, by=Actor.local(1))
    await registry.update(replace(made, hint="x"), by=Actor.local(2))
    await registry.update(replace(made, hint="x"), by=Actor.local(3))  # it is so already
    plan = await registry.apply([entry("/new", id="", revision=0)], by=Actor.local(4))
    await registry.delete(made.id, by=Actor.local(5))
    with pytest.raises(CitadelError):
        await registry.create(replace(FULL, selectors=frozenset()), by=Actor.local(6))
    async with database.reading() as connection:
        rows = await connection.execute(select(audit).order_by(audit.c.number))
        found = [(row.actor, row.what, row.target) for row in rows]
    assert found == [
        ("uid:1", "entry.create", made.id),
        ("uid:2", "entry.update", made.id),
        ("uid:4", "entry.create", plan.changes[0].entry.id),
        ("uid:5", "entry.delete", made.id),
    ]


async def test_of_events_the_last_are_kept_and_revisions_go_on(database: Database, clock: FakeClock) -> None:
    directory = EntryDirectory(trust_domain=A_TEST)
    store = SqlEntryStore(database=database, most_events=3)
    registry = EntryRegistry(trust_domain=A_TEST, store=store, directory=directory, clock=clock)
    await registry.start()
    for _ in range(5):
        made = await registry.create(entry("/one"), by=ROOT)
        await registry.delete(made.id, by=ROOT)
    async with database.reading() as connection:
        rows = await connection.execute(select(events.c.revision).order_by(events.c.revision))
        assert [row.revision for row in rows] == [7, 8, 9, 10]
    assert directory.revision == 10
    _, again = await started(database, clock)
    assert again.revision == 10


async def test_what_the_server_manages_is_done_as_far_as_it_can_be(database: Database, clock: FakeClock) -> None:
    registry, directory = await started(database, clock)
    by_hand = await registry.create(entry("/hand"), by=ROOT)
    by = Actor.kubernetes("main")
    wanted = {
        name: entry(path, id="", revision=0, origin=name)
        for name, path in (("k8s:main/a", "/a"), ("k8s:main/b", "/citadel/b"), ("k8s:main/c", "/hand"))
    }
    refused = await registry.manage(list(wanted.values()), by=by)
    assert {origin: error.reason for origin, error in refused.items()} == {"k8s:main/b": Reason.ENTRY_RESERVED_ID}
    [made] = directory.managed.of("k8s:main/a").values()
    assert set(directory.all()) == {made.id, by_hand.id}
    # What is left out made no way: /a stays whose it is.
    moved = replace(wanted["k8s:main/a"], id=made.id, spiffe_id=entry("/citadel/a").spiffe_id)
    again = replace(wanted["k8s:main/a"], origin="k8s:main/d", dns_names=("d",))
    refused = await registry.manage([moved, again], gone=["unknown", by_hand.id], by=by)
    assert {origin: error.reason.value for origin, error in refused.items()} == {
        "k8s:main/a": "entry_reserved_id",
        "k8s:main/d": "entry_duplicate",
    }
    # Nor is anything deleted that people registered; and where theirs is the same, it is the one.
    became = replace(wanted["k8s:main/a"], id=made.id, spiffe_id=by_hand.spiffe_id)
    assert not await registry.manage([became], by=by)
    assert directory.all() == {by_hand.id: by_hand}
    _, restarted = await started(database, clock)
    assert restarted.all() == directory.all()


async def test_an_apply_is_one_transaction(database: Database, clock: FakeClock) -> None:
    registry, directory = await started(database, clock)
    one = await registry.create(entry("/one"), by=ROOT)
    two = await registry.create(entry("/two"), by=ROOT)
    exchanged = [
        replace(one, spiffe_id=two.spiffe_id, revision=0),
        replace(two, spiffe_id=one.spiffe_id, revision=0),
        entry("/three", id="", revision=0),
    ]
    async with database.transaction() as connection:
        await connection.execute(text("ALTER TABLE event RENAME TO away"))
    before = dict(directory.all())
    with pytest.raises(Unavailable):
        await registry.apply(exchanged, by=ROOT)
    assert directory.all() == before
    async with database.transaction() as connection:
        await connection.execute(text("ALTER TABLE away RENAME TO event"))
    plan = await registry.apply(exchanged, by=ROOT)
    assert not plan.problems
    _, again = await started(database, clock)
    assert again.all() == directory.all()
    assert {found.id: found.spiffe_id for found in again.all().values() if found.id in before} == {
        one.id: two.spiffe_id,
        two.id: one.spiffe_id,
    }
