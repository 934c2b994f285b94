"""A backup holds everything, is believed only when it is whole, and comes back as a whole or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.audit.model import Act, Actor
from ca.authority.jwt_model import JwtAuthority
from ca.authority.model import AuthorityState
from ca.backup.format import BackupWriter, Header, TableHead
from ca.backup.keys import FolderShelf, KeyShelf, TableShelf
from ca.backup.making import BackupMaker, backup_label
from ca.backup.reading import Summary, inspect
from ca.backup.restoring import Restored, Restorer
from ca.backup.tables import heads, plain
from ca.entries.directory import EntryDirectory
from ca.entries.registry import EntryRegistry
from ca.keys.sealing import KekSealer
from ca.lease.model import Holder
from ca.store.audit import record_act
from ca.store.database import Database
from ca.store.entries import SqlEntryStore
from ca.store.jwt_authorities import SqlJwtAuthorityStore
from ca.store.lease import SqlLeaseStore
from ca.store.restores import LedgerGap, ledger_gaps
from ca.store.schema import audit, authorities, bundles, entries, events, ledger, sealed_keys, tokens
from citadel.errors import CitadelError, FailedPrecondition, InvalidArgument, Reason
from citadel.spiffe import TrustDomain
from tests.clock import FakeClock
from tests.csrs import new_key
from tests.stores import MigratedStores
from tests.unit.ca.values import A_TEST, NOW, entry

ROOT = Actor.local(0)
EPOCH, MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
SEALER = KekSealer(b"k" * 32)
HERE, ELSEWHERE = Holder(id="here", name="here"), Holder(id="elsewhere", name="server elsewhere")
KEYS = {"key-1": b"\x00sealed\xff", "key-2": b"other"}


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[Database]:
    """Another store, which is empty and has no tables yet."""
    made = Database.open(f"sqlite+aiosqlite:///{tmp_path / 'target.db'}")
    yield made
    await made.close()


async def filled(database: Database, clock: FakeClock) -> None:
    """A store that was used."""
    registry = EntryRegistry(
        trust_domain=A_TEST,
        store=SqlEntryStore(database=database),
        directory=EntryDirectory(trust_domain=A_TEST),
        clock=clock,
    )
    await registry.start()
    for number in range(3):
        made = await registry.create(entry(f"/w{number}", hint="ü\n\x01" if not number else ""), by=ROOT)
    await registry.delete(made.id, by=ROOT)
    await registry.manage([entry("/pod", id="", revision=0, origin="k8s:main/shop/web-0")], by=ROOT)
    async with database.transaction() as connection:
        await connection.execute(insert(bundles).values(trust_domain="a.test", sequence=7, digest="d"))
        await connection.execute(
            insert(authorities).values(
                id="a1",
                kind="root",
                state="active",
                key_id="key-1",
                certificate=bytes(range(256)),
                parent_id=None,
                created_at=NOW,
            )
        )
        for digest, used_at in (("t1", None), ("t2", NOW)):
            token = {"digest": digest, "agent_id": "a", "selectors": "[]", "expires_at": NOW + timedelta(days=1)}
            await connection.execute(insert(tokens).values(**token, used_at=used_at))
        await connection.execute(insert(ledger), [issued(serial) for serial in ("01", "02", "03")])


def issued(serial: str) -> dict[str, object]:
    return {
        "serial": serial,
        "spiffe_id": "spiffe://a.test/web",
        "entry_id": "e",
        "requested_by": "spiffe://a.test/citadel/agent/node-1",
        "issuer_id": "a1",
        "public_key": "k",
        "not_before": NOW,
        "not_after": NOW,
        "issued_at": NOW,
        "limited_by": "default",
    }


async def backed_up(database: Database, path: Path, clock: FakeClock, *, keys: KeyShelf | None = None) -> Path:
    folder = FolderShelf(path.parent / "keys")
    if keys is None:
        async with database.reading() as connection:
            await folder.add(connection, KEYS)
    maker = BackupMaker(database=database, keys=keys or folder, sealer=SEALER, trust_domain=A_TEST, clock=clock)
    with path.open("wb") as file:
        await maker.make(file)
    return path


async def restored(
    path: Path,
    target: Database,
    clock: FakeClock,
    *,
    keys: KeyShelf | None = None,
    replace: bool = False,
    sealer: KekSealer = SEALER,
    domain: TrustDomain = A_TEST,
) -> Restored:
    summary: Summary = await inspect(path, sealer=sealer, trust_domain=domain)
    restorer = Restorer(
        database=target,
        keys=keys or FolderShelf(path.parent / "restored-keys"),
        folder=path.parent,
        holder=HERE,
        clock=clock,
    )
    return await restorer.restore(path, summary, by=ROOT, replace=replace)


async def content(database: Database) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table, in some order."""
    async with database.reading() as connection:
        return {
            head.name: sorted(map(tuple, (await connection.execute(select(plain(head)))).all()), key=repr)
            for head in heads()
        }


async def test_everything_comes_back_in_either_kind_of_database(
    database: Database, target: Database, clock: FakeClock, tmp_path: Path
) -> None:
    await filled(database, clock)
    before = await content(database)
    there = await backed_up(database, tmp_path / "there", clock)
    clock.jump(timedelta(hours=1))
    await restored(there, target, clock)
    # And from there, where it is another kind of database, back again.
    back = await backed_up(target, tmp_path / "back", clock, keys=FolderShelf(tmp_path / "restored-keys"))
    clock.jump(timedelta(hours=1))
    await restored(back, database, clock, replace=True)
    after = await content(database)
    raised = {"bundle", "entry", "event", "join_token", "audit", "segment", "restore"}
    assert {name: rows for name, rows in after.items() if name not in raised} == {
        name: rows for name, rows in before.items() if name not in raised
    }
    assert set(before["audit"]) < set(after["audit"])
    names = [name for name, _ in next(head for head in heads() if head.name == "entry").columns]
    cut = names.index("revision")
    assert [row[:cut] + row[cut + 1 :] for row in after["entry"]] == [
        row[:cut] + row[cut + 1 :] for row in before["entry"]
    ]
    assert {path.name: path.read_bytes() for path in (tmp_path / "restored-keys").iterdir()} == {
        f"{key_id}.sealed": sealed for key_id, sealed in KEYS.items()
    }


async def test_keys_move_between_files_and_the_database(
    database: Database, target: Database, clock: FakeClock, tmp_path: Path
) -> None:
    await filled(database, clock)
    path = await backed_up(database, tmp_path / "backup", clock)
    await restored(path, target, clock, keys=TableShelf())
    async with target.reading() as connection:
        rows = (await connection.execute(select(sealed_keys.c.id, sealed_keys.c.sealed))).all()
    assert dict(map(tuple, rows)) == KEYS


@pytest.mark.invariant(11)
async def test_what_counts_goes_on_above_all_that_was_published_meanwhile(
    database: Database, target: Database, clock: FakeClock, tmp_path: Path
) -> None:
    await filled(database, clock)
    path = await backed_up(database, tmp_path / "backup", clock)
    seen = [(0, 0, 0)]
    for round_number in range(3):
        await restored(path, target, clock, replace=round_number > 0)
        async with target.transaction() as connection:
            await connection.execute(insert(events).values(kind="entry-created", subject="e"))
            sequence, revision, entry_revision = [
                await connection.scalar(select(func.max(column)))
                for column in (bundles.c.sequence, events.c.revision, entries.c.revision)
            ]
            await connection.execute(bundles.update().values(sequence=bundles.c.sequence + 1))
        newest = (int(sequence or 0), int(revision or 0), int(entry_revision or 0))
        assert all(now > before for now, before in zip(newest, seen[-1], strict=True)), (
            "even where the clock stands still"
        )
        seen.append(newest)
    assert min(seen[1]) > 10_000_000, "nobody has published as many since the backup"


@pytest.mark.invariant(3, 11)
async def test_each_half_of_the_bundle_counts_as_changed(
    database: Database, target: Database, clock: FakeClock, tmp_path: Path
) -> None:
    """What proxies hold may be of another content under a number of before."""
    await filled(database, clock)
    await restored(await backed_up(database, tmp_path / "backup", clock), target, clock)
    async with target.reading() as connection:
        [row] = (await connection.execute(select(bundles))).all()
    assert row.sequence == row.x509_sequence == row.jwt_sequence > 10_000_000


@pytest.mark.spec("JWT-30")
@pytest.mark.parametrize(
    ("until", "ends_after", "expected"),
    [
        pytest.param(None, 7, timedelta(days=1), id="it had signed nothing"),
        pytest.param(timedelta(minutes=5), 7, timedelta(days=1), id="it may have signed since"),
        pytest.param(timedelta(days=2), 7, timedelta(days=2), id="what was known stays known"),
        pytest.param(timedelta(minutes=5), 0.5, timedelta(days=0.5), id="nothing that it signed outlives it"),
    ],
)
async def test_a_key_for_tokens_comes_back_and_stays_until_all_that_it_may_have_signed_has_ended(
    database: Database,
    target: Database,
    clock: FakeClock,
    tmp_path: Path,
    until: timedelta | None,
    ends_after: float,
    expected: timedelta,
) -> None:
    key = JwtAuthority(
        id="t1",
        state=AuthorityState.ACTIVE,
        key_id="key-1",
        public_key=new_key().public_key(),
        not_before=NOW,
        not_after=clock.now() + timedelta(days=ends_after),
        signed_until=clock.now() + until if until is not None else None,
    )
    await SqlJwtAuthorityStore(database=database).record(key)
    await restored(await backed_up(database, tmp_path / "backup", clock), target, clock)
    (back,) = await SqlJwtAuthorityStore(database=target).load()
    assert back == replace(key, signed_until=clock.now() + expected)
    assert "key-1.sealed" in {file.name for file in (tmp_path / "keys").iterdir()}


async def test_row_numbers_are_never_given_twice(
    database: Database, target: Database, clock: FakeClock, tmp_path: Path
) -> None:
    await filled(database, clock)
    async with database.transaction() as connection:
        await connection.execute(ledger.delete().where(ledger.c.serial == "03"))
    await restored(await backed_up(database, tmp_path / "backup", clock), target, clock)
    async with target.transaction() as connection:
        await connection.execute(insert(ledger).values(**issued("04")))
        assert await connection.scalar(select(func.max(ledger.c.number))) == 4


async def test_the_gap_in_the_ledger_is_said(
    database: Database, target: Database, clock: FakeClock, tmp_path: Path
) -> None:
    await filled(database, clock)
    path = await backed_up(database, tmp_path / "backup", clock)
    begin = clock.now()
    clock.jump(timedelta(hours=3))
    done = await restored(path, target, clock)
    assert (done.gap_from, done.gap_to) == (begin, clock.now())
    assert await ledger_gaps(target) == [LedgerGap(begin=begin, end=clock.now())]
    async with target.reading() as connection:
        row = (await connection.execute(select(audit).order_by(audit.c.number.desc()).limit(1))).one()
    assert (row.what, row.actor) == ("backup.restore", "uid:0")
    assert begin.isoformat() in row.detail
    assert clock.now().isoformat() in row.detail


async def test_no_join_token_is_good_after_a_restore(
    database: Database, target: Database, clock: FakeClock, tmp_path: Path
) -> None:
    await filled(database, clock)
    await restored(await backed_up(database, tmp_path / "backup", clock), target, clock)
    async with target.reading() as connection:
        assert await connection.scalar(select(func.max(tokens.c.expires_at))) == clock.now()


async def reason_of(call: Awaitable[object]) -> Reason:
    with pytest.raises(CitadelError) as refused:
        await call
    return refused.value.reason


async def test_a_store_that_is_in_use_is_not_replaced_unasked(
    database: Database, clock: FakeClock, tmp_path: Path
) -> None:
    await filled(database, clock)
    path = await backed_up(database, tmp_path / "backup", clock)
    before = await content(database)
    assert await reason_of(restored(path, database, clock)) is Reason.RESTORE_REFUSED
    assert await content(database) == before


async def test_a_store_that_a_server_owns_is_not_touched(database: Database, clock: FakeClock, tmp_path: Path) -> None:
    await filled(database, clock)
    path = await backed_up(database, tmp_path / "backup", clock)
    store = SqlLeaseStore(database=database)
    lease = await store.take(ELSEWHERE, duration=timedelta(hours=1), returning=True)
    assert lease is not None
    before = await content(database)
    assert await reason_of(restored(path, database, clock, replace=True)) is Reason.RESTORE_REFUSED
    assert await content(database) == before
    await store.release(lease)
    await restored(path, database, clock, replace=True)


@pytest.mark.invariant(12)
async def test_a_restore_that_fails_half_way_leaves_what_was(
    database: Database, clock: FakeClock, tmp_path: Path
) -> None:
    await filled(database, clock)
    path = await backed_up(database, tmp_path / "backup", clock)
    async with database.transaction() as connection:
        await record_act(connection, Act(actor=ROOT, what="later"), at=clock.now())
    before = await content(database)

    class FullDisk(TableShelf):
        async def add(self, connection: AsyncConnection, keys: Mapping[str, bytes]) -> None:  # noqa: ARG002 - as there
            raise OSError(28, "No space left on device")

    failing = restored(path, database, clock, replace=True, keys=FullDisk())
    assert await reason_of(failing) is Reason.STORE_UNAVAILABLE
    assert await content(database) == before


@pytest.mark.soak  # in seconds, and for SQLite: tests/integration/test_backup_restore.py
@pytest.mark.invariant(12)
@pytest.mark.parametrize("where", ["before the commit", "after the commit"])
async def test_a_restore_that_is_killed_leaves_the_old_state_or_the_new(
    database: Database, store_url: str, clock: FakeClock, tmp_path: Path, where: str
) -> None:
    await filled(database, clock)
    path = await backed_up(database, tmp_path / "backup", clock)
    async with database.transaction() as connection:
        await connection.execute(insert(ledger).values(**issued("99")))
    before = await content(database)
    killed = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.unit.ca.killed_restore", path, store_url, tmp_path / "keys", where)
    )
    assert await killed.wait() == -signal.SIGKILL
    after = await content(database)
    assert (after == before) == (where == "before the commit")
    assert len(after["ledger"]) == (4 if where == "before the commit" else 3)
    assert {found.name for found in (tmp_path / "keys").iterdir()} == {f"{key_id}.sealed" for key_id in KEYS}
    assert len(await ledger_gaps(database)) == (0 if where == "before the commit" else 1)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, migrated_stores: MigratedStores) -> Path:
    """A folder with a good backup, and the keys that went into it."""
    folder = tmp_path_factory.mktemp("good")

    async def make() -> None:
        database = Database.open(migrated_stores.sqlite(folder / "whole.db"))
        await filled(database, clock := FakeClock())
        await backed_up(database, folder / "whole", clock)
        await database.close()

    asyncio.run(make())
    return folder


@pytest.fixture
def whole(good: Path, tmp_path: Path) -> bytes:
    """The bytes of a good backup."""
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    return (tmp_path / "whole").read_bytes()


def flipped(at: float) -> Callable[[bytes], bytes]:
    def damage(data: bytes) -> bytes:
        place = int(at * (len(data) - 1))
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    return damage


def without_line(number: int) -> Callable[[bytes], bytes]:
    return lambda data: b"".join(line for at, line in enumerate(data.splitlines(keepends=True)) if at != number)


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda _: b"{}\n",
        lambda _: b"SQLite format 3\x00" + bytes(100),
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data[: data.rindex(b'{"end"')],
        lambda data: data + b"\n",
        lambda data: data + data,
        lambda data: data.replace(b"/w0", b"/w9"),
        lambda data: data.replace(b'"text"', b'"blob"', 1),
        lambda data: b"x" * 20_000_000 + data,
        without_line(0),
        without_line(1),
        without_line(5),
        lambda data: data[: data[:-1].rindex(b"\n") + 1],
        *(flipped(part / 40) for part in range(41)),
    ],
)  # fmt: skip
async def test_a_damaged_backup_is_refused(
    whole: bytes, tmp_path: Path, damage: Callable[[bytes], bytes], target: Database, clock: FakeClock
) -> None:
    path = tmp_path / "damaged"
    damaged = damage(whole)
    path.write_bytes(damaged)
    assert damaged != whole
    with pytest.raises((InvalidArgument, FailedPrecondition)) as refused:
        await restored(path, target, clock)
    assert refused.value.reason in {Reason.BACKUP_MALFORMED, Reason.RESTORE_REFUSED, Reason.KEY_UNSEALABLE}


async def test_every_single_byte_counts(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    for place in range(0, len(whole), 29):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x20]) + whole[place + 1 :])
        with pytest.raises(CitadelError):
            await inspect(path, sealer=SEALER, trust_domain=A_TEST)


async def test_a_backup_that_somebody_wrote_anew_is_refused(whole: bytes, tmp_path: Path) -> None:
    """Who can write to where backups lie can make the digest right, but not its seal."""
    lines = whole.replace(b"/w0", b"/w9").splitlines(keepends=True)
    end = json.loads(lines[-1])
    end["end"]["sha256"] = hashlib.sha256(b"".join(lines[:-1])).hexdigest()
    path = tmp_path / "forged"
    path.write_bytes(b"".join(lines[:-1]) + json.dumps(end, separators=(",", ":")).encode() + b"\n")
    with pytest.raises(InvalidArgument) as refused:
        await inspect(path, sealer=SEALER, trust_domain=A_TEST)
    assert (refused.value.reason, refused.value.message) == (Reason.BACKUP_MALFORMED, "the seal is of another backup")


@pytest.mark.usefixtures("whole")
async def test_another_key_encryption_key_is_said(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition) as refused:
        await inspect(tmp_path / "whole", sealer=KekSealer(b"x" * 32), trust_domain=A_TEST)
    assert refused.value.reason is Reason.KEY_UNSEALABLE


@pytest.mark.usefixtures("whole")
async def test_a_backup_of_another_trust_domain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition) as refused:
        await inspect(tmp_path / "whole", sealer=SEALER, trust_domain=TrustDomain("b.test"))
    assert refused.value.reason is Reason.RESTORE_REFUSED


async def handmade(path: Path, schema: str) -> Path:
    """A backup as another version would have made it: one ledger row, with the columns of the first schema."""
    row = issued("07")
    kinds = {int: "int", str: "text"}
    values = {
        name: (value - EPOCH) // MICROSECOND if isinstance(value, datetime) else str(value)
        for name, value in row.items()
    }
    header = Header(version="0.0.1", schema=schema, trust_domain=A_TEST, made_at=NOW, counters={"ledger": 5})
    with path.open("wb") as file:
        writer = BackupWriter(file, header)
        writer.table(TableHead("ledger", tuple((name, kinds[type(value)]) for name, value in values.items())))
        writer.extend([list(values.values())])
        writer.end(await SEALER.seal(writer.digest, backup_label(A_TEST)))
    return path


async def test_an_older_backup_is_brought_up_to_date(target: Database, clock: FakeClock, tmp_path: Path) -> None:
    await restored(await handmade(tmp_path / "old", "0001"), target, clock)
    async with target.transaction() as connection:
        [row] = (await connection.execute(select(ledger))).all()
        assert (row.serial, row.issued_at, row.writer) == ("07", NOW, None)
        await connection.execute(insert(ledger).values(**issued("08")))
        assert await connection.scalar(select(func.max(ledger.c.number))) == 6


async def test_a_newer_backup_is_refused(target: Database, clock: FakeClock, tmp_path: Path) -> None:
    assert await reason_of(restored(await handmade(tmp_path / "new", "9999"), target, clock)) is Reason.RESTORE_REFUSED
