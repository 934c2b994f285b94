"""Checkpoints come by time, by number and at the end; pruning by age leaves an anchor and covers nothing up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from ca.audit.model import Act, Actor, ActorKind
from ca.keys.kinds import KeyKind
from ca.keys.sealing import KeyPurpose
from ca.ledger.chain import Head, Log
from ca.ledger.checkpoints import Checkpoint, CheckpointKind
from ca.ledger.notary import Keeping, Notary, RecordKey
from ca.ledger.pages import AuditQuery
from ca.store.database import Database
from ca.store.pages import SqlRecordPages
from ca.store.records import SqlRecords
from citadel.errors import FailedPrecondition, InvalidArgument, Reason, Unavailable
from tests.clock import FakeClock
from tests.remote_keys import Elsewhere, LocalRemoteKey
from tests.unit.ca.records import ROOT, FakeKeys, act, checked, notary_of, problems, row, tamper, write, writing
from tests.unit.ca.values import NOW, a_key

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


async def signed(database: Database, log: Log = Log.LEDGER) -> int:
    return len((await SqlRecords(database=database).state(log)).signed)


class FakeStore:
    """The heads of both logs, and what was signed of them; without a disk, so that only the fake clock counts."""

    def __init__(self) -> None:
        self.heads: dict[Log, Head] = {}
        self.signed: list[Checkpoint] = []
        self.pruned_before: list[datetime] = []

    async def keys(self) -> list[RecordKey]:
        return []

    async def add_key(self, key: RecordKey) -> None: ...

    async def unsigned_head(self, log: Log) -> Head | None:
        head = self.heads.get(log)
        return None if head in [checkpoint.head for checkpoint in self.signed] else head

    async def add(self, checkpoint: Checkpoint, jws: str) -> None:
        assert jws.count(".") == 2
        self.signed.append(checkpoint)

    async def writers(self, log: Log) -> list[str]:  # noqa: ARG002 - the port's form
        return ["w"]

    async def prunable(self, log: Log, *, before: datetime) -> int:  # noqa: ARG002 - the port's form
        return 1

    async def anchor(self, log: Log, writer: str, *, before: datetime, at: datetime) -> Checkpoint | None:
        if before in self.pruned_before:
            return None
        head = Head(writer, 1, b"")
        return Checkpoint(log=log, head=head, at=at, kind=CheckpointKind.ANCHOR)

    async def prune(self, anchor: Checkpoint, jws: str, *, before: datetime) -> int:
        assert (anchor.kind, jws.count(".")) == (CheckpointKind.ANCHOR, 2)
        self.pruned_before.append(before)
        return 1

    async def record_all(self, acts: Sequence[Act], *, at: datetime) -> None: ...


@asynccontextmanager
async def timed(clock: FakeClock, *, keep: timedelta | None = None) -> AsyncIterator[tuple[Notary, FakeStore]]:
    store = FakeStore()
    keeping = [Keeping(log=Log.LEDGER, keep=keep), Keeping(log=Log.AUDIT, keep=None)]
    interval = timedelta(minutes=5)
    notary = Notary(keys=FakeKeys(), store=store, acts=store, clock=clock, interval=interval, keeping=keeping)
    await notary.start()
    work = asyncio.create_task(notary.run())
    await clock.advance(0)
    yield notary, store
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


async def test_heads_are_signed_every_interval_if_there_is_something_new(clock: FakeClock) -> None:
    async with timed(clock) as (_, store):
        store.heads[Log.LEDGER] = Head("w", 1, bytes(32))
        await clock.advance(299)
        assert store.signed == []
        await clock.advance(2)
        (first,) = store.signed
        assert (first.log, first.head.position, first.at) == (Log.LEDGER, 1, NOW + timedelta(minutes=5))
        await clock.advance(600)
        assert store.signed == [first]  # nothing new
        store.heads[Log.AUDIT] = Head("v", 1, bytes(32))
        await clock.advance(300)
        assert [checkpoint.log for checkpoint in store.signed] == [Log.LEDGER, Log.AUDIT]


async def test_many_rows_are_signed_before_the_interval_ends(clock: FakeClock) -> None:
    async with timed(clock) as (notary, store):
        store.heads[Log.LEDGER] = Head("w", 10_000, bytes(32))
        notary.note_rows(9_999)
        await clock.advance(1)
        assert store.signed == []
        notary.note_rows(1)
        await clock.advance(0)
        assert len(store.signed) == 1


async def test_what_is_too_old_goes_by_itself_every_hour(clock: FakeClock) -> None:
    async with timed(clock, keep=2 * DAY) as (_, store):
        await clock.advance(3 * 3600 + 10)
    assert store.pruned_before == [NOW + count * HOUR - 2 * DAY for count in range(4)]


async def test_the_end_is_signed(database: Database, clock: FakeClock) -> None:
    notary = await notary_of(database, clock)
    await write(database, row(), row())
    await notary.close()
    report = await checked(database)
    assert (report.unsigned_rows, report.checkpoints) == (0, 1)


async def test_a_key_signs_on_after_a_restart_and_a_lost_one_is_replaced(database: Database, clock: FakeClock) -> None:
    keys = FakeKeys()
    for _ in range(2):
        await write(database, row())
        await (await notary_of(database, clock, keys=keys)).close()
    assert len(keys.made) == 1
    keys.is_lost = True
    with capture_logs() as lines:
        await write(database, row())
        await (await notary_of(database, clock, keys=keys)).close()
    assert [line["event"] for line in lines] == ["key of the records not opened", "key of the records made"]
    report = await checked(database)
    assert (report.checkpoints, report.breaks, len(await SqlRecords(database=database).keys())) == (3, [], 2)


async def aged(database: Database, *hours: int) -> None:
    """One run with certificates that expire after so many hours."""
    await write(database, *(row(not_after=NOW + count * HOUR) for count in hours))


@pytest.fixture
def late(clock: FakeClock) -> FakeClock:
    """The clock ten days after everything was recorded."""
    clock.jump(10 * DAY)
    return clock


async def test_only_what_has_expired_is_pruned_and_verifying_goes_on_from_the_anchor(
    database: Database, late: FakeClock
) -> None:
    await aged(database, 1, 2, 30, 1, 2)
    await aged(database, 1, 50)
    notary = await notary_of(database, late)
    await notary.checkpoint()
    before = NOW + 10 * HOUR
    # The fourth and fifth stand behind one that is kept: only a beginning is removed, so that the chain stays whole.
    assert await notary.prunable(Log.LEDGER, before=before) == 3
    assert await notary.prune(Log.LEDGER, before=before, by=ROOT) == 3
    report = await checked(database)
    assert (report.rows, report.pruned, report.breaks) == (4, 3, [])
    assert await notary.prune(Log.LEDGER, before=before, by=ROOT) == 0
    assert await notary.prune(Log.LEDGER, before=NOW + 100 * HOUR, by=ROOT) == 4
    await aged(database, 1)  # the next run goes on after what is not there any more
    report = await checked(database)
    assert (report.rows, report.pruned, report.breaks) == (1, 7, [])


async def test_a_writer_whose_rows_were_all_pruned_goes_on(database: Database, late: FakeClock) -> None:
    notary = await notary_of(database, late)
    async with writing(database) as ledger:
        await ledger.append([row(serial="aa")])
        await notary.prune(Log.LEDGER, before=NOW + DAY, by=ROOT)
        await ledger.append([row(serial="bb")])
        await notary.prune(Log.LEDGER, before=NOW + DAY, by=ROOT)
        with pytest.raises(Exception, match="store"):
            await ledger.append([row(serial="cc"), row(serial="cc")])  # the head must be read again
        await ledger.append([row(serial="dd")])
    report = await checked(database)
    assert (report.rows, report.pruned, report.breaks) == (1, 2, [])


async def test_many_rows_are_pruned_in_many_transactions(database: Database, late: FakeClock) -> None:
    await write(database, *(row() for _ in range(4_500)))
    notary = await notary_of(database, late)
    assert await notary.prune(Log.LEDGER, before=NOW + DAY, by=ROOT) == 4_500
    assert (await checked(database)).pruned == 4_500
    assert await signed(database) == 1  # one anchor, the last


async def test_pruning_is_an_act_in_the_audit_log(database: Database, late: FakeClock) -> None:
    await aged(database, 1)
    await (await notary_of(database, late)).prune(Log.LEDGER, before=NOW + DAY, by=ROOT)
    (found,) = await SqlRecordPages(database=database).acts(AuditQuery(), after=None, most=10)
    assert (found.act.actor, found.act.what) == (ROOT, "ledger.prune")
    assert found.act.detail == f"1 rows that ended before {(NOW + DAY).isoformat()}"


async def test_acts_are_pruned_by_their_age(database: Database, late: FakeClock) -> None:
    await act(database, "entry.create", "entry.delete")
    await act(database, "agent.ban", at=NOW + 3 * DAY)
    notary = await notary_of(database, late)
    assert await notary.prune(Log.AUDIT, before=NOW + DAY, by=ROOT) == 2
    report = await checked(database, Log.AUDIT)
    assert (report.rows, report.pruned, report.breaks) == (2, 2, [])  # and the act of pruning


async def test_pruning_never_covers_up_a_change(database: Database, late: FakeClock) -> None:
    await aged(database, 1, 1, 1)
    notary = await notary_of(database, late)
    await tamper(database, "UPDATE ledger SET spiffe_id = 'spiffe://a.test/evil' WHERE number = 2")
    with pytest.raises(FailedPrecondition) as refused:
        await notary.prune(Log.LEDGER, before=NOW + DAY, by=ROOT)
    assert refused.value.reason is Reason.CHAIN_BROKEN
    assert (await checked(database)).rows == 3  # nothing was removed


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE checkpoint SET jws = replace(jws, '.', '.AA')", "signature is wrong"),
        ("DELETE FROM checkpoint", "rows 1 to 2 are missing"),
        ("DELETE FROM ledger WHERE position = 3", "row 3 is missing"),
    ],
)
async def test_an_anchor_that_is_not_the_notarys_does_not_hold(
    database: Database, late: FakeClock, statement: str, said: str
) -> None:
    await aged(database, 1, 1, 50, 50)
    await (await notary_of(database, late)).prune(Log.LEDGER, before=NOW + DAY, by=ROOT)
    assert await problems(database) == []
    await tamper(database, statement)
    assert any(said in problem for problem in await problems(database))


async def without_the_run_before(database: Database) -> None:
    """Take the oldest segment out whole, and let the next one say that it was the first."""
    await tamper(
        database,
        "DELETE FROM ledger WHERE writer = (SELECT writer FROM segment WHERE log = 'ledger' ORDER BY number LIMIT 1)",
        "DELETE FROM segment WHERE number = (SELECT min(number) FROM segment WHERE log = 'ledger')",
        "UPDATE segment SET after_writer = '', after_position = 0, after_hash = '' WHERE log = 'ledger'",
    )


async def test_a_run_that_was_taken_out_before_one_that_was_pruned_is_missed(
    database: Database, late: FakeClock
) -> None:
    await aged(database, 500, 500)  # a long life keeps the older run
    await aged(database, 1, 1, 100, 500)
    notary = await notary_of(database, late)
    assert await notary.prune(Log.LEDGER, before=NOW + DAY, by=ROOT) == 2
    assert await problems(database) == []
    await without_the_run_before(database)
    assert await problems(database) == ["the segment began otherwise: what it says of the one before it was changed"]
    with pytest.raises(FailedPrecondition) as refused:  # and a further anchor does not make it good
        await notary.prune(Log.LEDGER, before=NOW + 9 * DAY, by=ROOT)
    assert refused.value.reason is Reason.CHAIN_BROKEN


async def test_what_is_pruned_by_itself_is_the_servers_act(database: Database, clock: FakeClock) -> None:
    await aged(database, 1, 1)
    notary = await notary_of(database, clock, keeping=[Keeping(log=Log.LEDGER, keep=DAY)])
    clock.jump(3 * DAY)
    await notary._prune_by_age()
    assert (await checked(database)).pruned == 2
    (found,) = await SqlRecordPages(database=database).acts(AuditQuery(), after=None, most=10)
    assert found.act.actor == Actor(ActorKind.SERVER)


@pytest.mark.parametrize("log", Log)
async def test_nothing_that_has_not_ended_can_be_pruned(database: Database, clock: FakeClock, log: Log) -> None:
    await aged(database, 2)
    await act(database, "entry.create")
    notary = await notary_of(database, clock)
    for ask in (notary.prunable(log, before=NOW + DAY), notary.prune(log, before=NOW + DAY, by=ROOT)):
        with pytest.raises(InvalidArgument, match="still to come"):
            await ask
    assert await notary.prune(log, before=NOW, by=ROOT) == 0


class KeysElsewhere(FakeKeys):
    """The same keys, which sign elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.elsewhere = Elsewhere()

    async def signer(self, key_id: str, purpose: KeyPurpose) -> Any:
        return LocalRemoteKey(await super().signer(key_id, purpose), self.elsewhere)


async def test_a_key_that_is_elsewhere_signs_and_what_it_missed_is_signed_later(
    database: Database, late: FakeClock
) -> None:
    keys = KeysElsewhere()
    notary = await notary_of(database, late, keys=keys)
    await aged(database, 1, 30)
    keys.elsewhere.failure = Unavailable(Reason.VAULT_UNAVAILABLE, "sealed")
    for ask in (notary.checkpoint(), notary.prune(Log.LEDGER, before=NOW + 2 * HOUR, by=ROOT)):
        with pytest.raises(Unavailable):
            await ask
    report = await checked(database)
    assert (report.rows, report.pruned, report.checkpoints) == (2, 0, 0), "no row goes before its anchor is signed"
    keys.elsewhere.failure = None
    await notary.checkpoint()
    assert await notary.prune(Log.LEDGER, before=NOW + 2 * HOUR, by=ROOT) == 1
    report = await checked(database)
    assert (report.rows, report.pruned, report.unsigned_rows, report.breaks) == (1, 1, 0, [])


async def test_while_an_anchor_is_signed_the_store_takes_rows_and_who_prunes_too_takes_nothing_twice(
    database: Database, late: FakeClock
) -> None:
    keys = KeysElsewhere()
    notary = await notary_of(database, late, keys=keys)
    async with writing(database) as ledger:
        await ledger.append([row(), row()])
        keys.elsewhere.gate.clear()
        pruning = [asyncio.create_task(notary.prune(Log.LEDGER, before=NOW + DAY, by=ROOT)) for _ in range(2)]
        while not keys.elsewhere.calls:
            await asyncio.sleep(0.001)
        await ledger.append([row(not_after=NOW + 30 * DAY)])
        keys.elsewhere.gate.set()
        assert sorted(await asyncio.gather(*pruning)) == [0, 2]
    report = await checked(database)
    assert (report.rows, report.pruned, report.breaks) == (1, 2, [])


async def test_a_key_of_another_kind_signs_no_records(database: Database, clock: FakeClock) -> None:
    class RsaKeys(KeysElsewhere):
        async def create(self, purpose: KeyPurpose) -> str:
            key_id = await super().create(purpose)
            self.made[key_id] = a_key(KeyKind.RSA_2048)  # type: ignore[assignment] # which is the fault
            return key_id

    with pytest.raises(FailedPrecondition, match="not an elliptic-curve key"):
        await notary_of(database, clock, keys=RsaKeys())
