"""What verifying finds in a store that somebody changed: each way to change it, in both logs."""

# ruff: noqa: S608 - the statements are the tests' own

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ca.ledger.chain import Head, Log, Segment, link, record
from ca.ledger.checkpoints import Checkpoint, CheckpointSigner, fingerprint_of, read_checkpoint
from ca.store.chain import AUDIT_FIELDS, LEDGER_FIELDS
from ca.store.database import Database
from ca.store.records import SqlRecords
from citadel.errors import CitadelError, Reason
from tests.clock import FakeClock
from tests.unit.ca.records import FakeKeys, act, checked, notary_of, problems, row, tamper, write
from tests.unit.ca.values import NOW

WORDS = ("serial", "spiffe_id", "entry_id", "requested_by", "issuer_id", "public_key", "limited_by")
TIMES = ("not_before", "not_after", "issued_at")


@pytest.fixture
def keys() -> FakeKeys:
    return FakeKeys()


@pytest.fixture
async def store(database: Database, clock: FakeClock, keys: FakeKeys) -> Database:
    """Two runs of three certificates and three acts each; the first run's are signed."""
    for is_signed in (True, False):
        await write(database, row(), row(), row())
        await act(database, "entry.create", "entry.delete", "agent.ban")
        if is_signed:
            await (await notary_of(database, clock, keys=keys)).checkpoint()
    return database


async def exported(database: Database, log: Log = Log.LEDGER) -> list[str]:
    return list((await SqlRecords(database=database).state(log)).signed)


async def test_the_format_is_what_the_documentation_says() -> None:
    segment = Segment(log=Log.LEDGER, writer="w", begun_at=NOW, after=Head("v", 2, bytes(32)), unchained=1)
    # sha256sum of: [1,"segment","ledger","w",1767225600000000,"v",2,"00…00",1]
    assert segment.genesis().hash.hex() == "6d4eb9c35951197a7df65ccb52405c5791230f41e95d759784a8b80182161b4c"
    line = record(Log.AUDIT, "w", 1, [5, 'quo"te', "é"])
    assert line == rb'[1,"audit","w",1,5,"quo\"te","\u00e9"]'
    assert link(bytes(32), line).hex() == "5ed8280e6393f2f8b3da84fd24ebd78b1afa1bc461c17d20db2a6b0264f85245"


async def test_logs_that_nobody_touched_are_intact(store: Database) -> None:
    for log in Log:
        report = await checked(store, log)
        assert report.breaks == []
        assert (report.rows, report.checkpoints, report.unchained, report.pruned) == (6, 1, 0, 0)


@pytest.mark.parametrize("column", [*WORDS, *TIMES])
async def test_no_column_of_the_ledger_can_be_changed(store: Database, column: str) -> None:
    value = "'other'" if column in WORDS else f"{column} + 1"
    await tamper(store, f"UPDATE ledger SET {column} = {value} WHERE number = 2")
    report = await checked(store)
    assert [(found.number, found.position) for found in report.breaks] == [(2, 2)]
    assert report.breaks[0].problem.startswith("row 2 was changed: [")
    assert set(LEDGER_FIELDS) == {*WORDS, *TIMES}


@pytest.mark.parametrize("column", AUDIT_FIELDS)
async def test_no_column_of_the_audit_log_can_be_changed(store: Database, column: str) -> None:
    value = f"{column} + 1" if column in ("at", "count") else "'other'"
    await tamper(store, f"UPDATE audit SET {column} = {value} WHERE number = 2")
    (found,) = (await checked(store, Log.AUDIT)).breaks
    assert (found.number, found.position) == (2, 2)


INSERT = "INSERT INTO ledger ({to}) SELECT {values} FROM ledger WHERE number = 1 AND 1 = 1"
COLUMNS = (*LEDGER_FIELDS, "writer", "position", "hash")


def copied(**changes: str) -> str:
    values = [changes.get(column, column) for column in COLUMNS]
    return INSERT.format(to=", ".join(COLUMNS), values=", ".join(values))


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        pytest.param(["DELETE FROM ledger WHERE number = 1"], ["row 1 is missing"], id="the first removed"),
        pytest.param(["DELETE FROM ledger WHERE number = 2"], ["row 2 is missing"], id="one removed"),
        pytest.param(["DELETE FROM ledger WHERE number IN (1, 2)"], ["rows 1 to 2 are missing"], id="two removed"),
        pytest.param(
            ["DELETE FROM ledger WHERE number = 3"],
            ["row 3 is missing at the end: a checkpoint of", "row 3 is missing at the end: the next segment knows"],
            id="the last of a run removed",
        ),
        pytest.param(
            ["DELETE FROM ledger WHERE number <= 3"],
            ["rows 1 to 3 are missing at the end: a checkpoint", "rows 1 to 3 are missing at the end: the next"],
            id="all of a run removed",
        ),
        pytest.param(
            [
                "DELETE FROM ledger WHERE number <= 3",
                "DELETE FROM segment WHERE log = 'ledger' AND after_position = 0",
            ],
            ["segments before it are missing", "the whole segment, at least 3 rows, is missing"],
            id="a whole run removed",
        ),
        pytest.param(
            [copied(serial="'made-up'", position="4")],
            ["row 4 was changed", "row 4 is added after the segment's end"],
            id="one inserted at the end",
        ),
        pytest.param(
            [copied(serial="'made-up'", writer="NULL", position="NULL", hash="NULL")],
            ["1 rows without a hash were inserted"],
            id="one inserted as if it were old",
        ),
        pytest.param(
            [copied(serial="'made-up'", writer="'stranger'")],
            ["1 rows have a writer that was never recorded"],
            id="one inserted under another writer",
        ),
        pytest.param(
            [
                "UPDATE ledger SET position = 99 WHERE number = 1",
                "UPDATE ledger SET position = 1 WHERE number = 2",
                "UPDATE ledger SET position = 2 WHERE number = 1",
            ],
            ["row 1 was changed", "row 2 was changed", "row 2 was moved", "row 3 was changed"],
            id="two exchanged",
        ),
        pytest.param(
            ["UPDATE ledger SET number = 100 WHERE number = 2"], ["row 3 was moved"], id="moved in the table alone"
        ),
        pytest.param(
            ["UPDATE segment SET begun_at = begun_at + 1 WHERE log = 'ledger' AND after_position = 0"],
            ["row 1 was changed"],
            id="the beginning of a run changed",
        ),
        pytest.param(
            ["UPDATE segment SET unchained = 5 WHERE log = 'ledger' AND after_position = 0"],
            ["row 1 was changed"],
            id="more old rows claimed",
        ),
    ],
)
async def test_what_was_done_is_said_with_the_row(store: Database, statements: list[str], said: list[str]) -> None:
    await tamper(store, *statements)
    found = await problems(store)
    assert len(found) == len(said), found
    for problem, beginning in zip(found, said, strict=True):
        assert problem.startswith(beginning), found
    assert await problems(store, Log.AUDIT) == []  # each log for itself


async def rewritten(store: Database) -> None:
    """Change the first certificate and compute every hash of its run anew, as whoever knows the format can."""
    records = SqlRecords(database=store)
    first = (await records.state(Log.LEDGER)).segments[0]
    await tamper(store, "UPDATE ledger SET spiffe_id = 'spiffe://a.test/evil' WHERE number = 1")
    before = first.genesis()
    async for rows in records.rows(Log.LEDGER, before):
        last = before.hash
        for found in rows:
            last = link(last, found.record)
            literal = f"X'{last.hex()}'" if store.engine.dialect.name == "sqlite" else f"decode('{last.hex()}', 'hex')"
            await tamper(
                store,
                f"UPDATE ledger SET hash = {literal} WHERE number = {found.number}",
                f"UPDATE segment SET after_hash = {literal} WHERE after_position = {found.position} AND log = 'ledger'",
            )


async def test_hashes_that_were_computed_anew_differ_from_the_signed_ones(store: Database) -> None:
    await rewritten(store)
    said = await problems(store)
    assert said[0].startswith("row 3 or one before it was changed: a checkpoint of")


async def test_a_cut_off_end_shows_by_a_checkpoint_that_was_kept_elsewhere_and_not_without(
    store: Database, clock: FakeClock, keys: FakeKeys
) -> None:
    await (await notary_of(store, clock, keys=keys)).checkpoint()
    kept = await exported(store)
    assert len(kept) == 2
    await tamper(
        store,
        "DELETE FROM ledger WHERE number >= 5",
        f"DELETE FROM checkpoint WHERE log = 'ledger' AND jws = '{kept[1]}'",
    )
    assert await problems(store) == []  # nothing in the store knows it, as the command says
    (said,) = await problems(store, kept=kept)
    assert said.startswith("rows 2 to 3 are missing at the end: a checkpoint of")


async def test_a_checkpoint_that_another_key_signed_is_refused(store: Database) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    forger = CheckpointSigner(key, public_key=key.public_key())
    (jws,) = await exported(store)
    original = read_checkpoint(jws, await SqlRecords(database=store).keys())
    forged = await forger.sign(Checkpoint(log=Log.LEDGER, head=original.head, at=NOW))
    (said,) = await problems(store, kept=[forged])
    assert "is not trusted" in said
    header, _, signature = forged.split(".")
    mixed = f"{jws.split('.')[0]}.{jws.split('.')[1]}.{signature}"
    (said,) = await problems(store, kept=[mixed])
    assert "signature is wrong" in said
    assert header != jws.split(".")[0]


async def test_only_the_pinned_key_counts(store: Database) -> None:
    pinned = ec.generate_private_key(ec.SECP256R1()).public_key()
    report = await checked(store, keys={fingerprint_of(pinned): pinned})
    assert ["is not trusted" in found.problem for found in report.breaks] == [True]


@pytest.mark.parametrize(
    "jws",
    ["", "a.b.c", "not a token", json.dumps({}), "eyJhbGciOiJub25lIn0.e30.", "eyJhbGciOiJFUzI1NiIsImtpZCI6MX0.e30.AA"],
)
async def test_what_is_no_checkpoint_is_refused(jws: str) -> None:
    with pytest.raises(CitadelError) as refused:
        read_checkpoint(jws, {})
    assert refused.value.reason is Reason.CHAIN_BROKEN


async def test_rows_from_before_the_chain_are_said_and_not_hidden(database: Database) -> None:
    await tamper(
        database,
        *(
            f"INSERT INTO ledger ({', '.join(LEDGER_FIELDS)})"
            f" VALUES ('old-{n}', 'spiffe://a.test/web', 'e', 'spiffe://a.test/a', 'i', 'k', 1, 2, 1, 'default')"
            for n in range(3)
        ),
    )
    await write(database, row())
    report = await checked(database)
    assert (report.unchained, report.rows, report.breaks) == (3, 1, [])
    await tamper(database, "DELETE FROM ledger WHERE serial = 'old-1'")
    assert (await checked(database)).breaks == []  # nothing protects them, as the command says
