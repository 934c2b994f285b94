"""The schema and its migrations, and what a crash in the middle of one leaves."""

from __future__ import annotations

import asyncio
import gc
import traceback
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
import pytest
from alembic import op
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, func, inspect, select, text

from ca.keys.manager import SealedKeyManager
from ca.keys.sealing import KekSealer, KeyPurpose
from ca.store.database import Database
from ca.store.schema import bundles, metadata, sealed_keys, tokens
from ca.store.sealed_keys import SqlKeys
from citadel.errors import FailedPrecondition, InvalidArgument, Reason, Unavailable
from citadel.probes import Health
from citadel.spiffe import TrustDomain
from tests.postgres import Postgres


def differences(connection: Connection) -> list[Any]:
    return list(compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata))


def tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names()) - {"sqlite_sequence"}


def downgrade(connection: Connection) -> None:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path("ca/store/migrations").resolve()))
    config.attributes["connection"] = connection
    alembic.command.downgrade(config, "base")


async def test_the_migrations_make_the_schema(database: Database) -> None:
    async with database.transaction() as connection:
        assert await connection.run_sync(differences) == []


async def test_down_and_up_again_gives_the_same(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.run_sync(downgrade)
        assert await connection.run_sync(tables) == {"alembic_version"}
    await database.migrate()
    async with database.transaction() as connection:
        assert await connection.run_sync(differences) == []


async def test_migrating_again_changes_nothing(database: Database) -> None:
    await database.migrate()
    async with database.transaction() as connection:
        assert await connection.run_sync(differences) == []


@pytest.mark.invariant(12)
@pytest.mark.parametrize("at_table", range(7))
async def test_a_crash_during_a_migration_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_table: int
) -> None:
    database = Database.open(f"sqlite+aiosqlite:///{tmp_path / 'store.db'}")
    create_table, made = op.create_table, []

    def create_or_crash(name: str, *columns: Any, **options: Any) -> Any:
        if len(made) == at_table:
            raise KeyboardInterrupt
        made.append(name)
        return create_table(name, *columns, **options)

    with monkeypatch.context() as crashing:
        crashing.setattr(op, "create_table", create_or_crash)
        with pytest.raises(KeyboardInterrupt):
            await database.migrate()
    await database.close()
    database = Database.open(f"sqlite+aiosqlite:///{tmp_path / 'store.db'}")
    async with database.transaction() as connection:
        assert await connection.run_sync(tables) == set()
    await database.migrate()
    async with database.transaction() as connection:
        assert await connection.run_sync(differences) == []
    await database.close()


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
async def test_a_commit_survives_a_power_cut_as_far_as_the_settings_can_say(database: Database) -> None:
    async with database.transaction() as connection:
        found = {name: await connection.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous")}
    assert found == {"journal_mode": "wal", "synchronous": 2}  # sqlite.org/pragma.html: 2 is FULL


async def test_a_block_that_fails_leaves_no_trace(database: Database) -> None:
    async def fail() -> None:
        async with database.transaction() as connection:
            await connection.execute(bundles.insert().values(trust_domain="a.test", sequence=1, digest="d"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with database.transaction() as connection:
        assert await connection.scalar(select(func.count()).select_from(bundles)) == 0


async def test_a_database_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    database = Database.open(f"sqlite+aiosqlite:///{tmp_path / 'no' / 'such' / 'folder' / 'store.db'}")
    with pytest.raises(Unavailable) as refused:
        await database.migrate()
    assert refused.value.reason is Reason.STORE_UNAVAILABLE
    await database.close()


async def test_moments_keep_microseconds_and_come_back_in_utc(database: Database) -> None:
    eastward = timezone(timedelta(hours=5, minutes=30))
    wanted = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=eastward)
    async with database.transaction() as connection:
        await connection.execute(tokens.insert().values(digest="d", agent_id="a", selectors="[]", expires_at=wanted))
        found = await connection.scalar(select(tokens.c.expires_at))
    assert found == wanted
    assert found.tzinfo is UTC


@pytest.mark.invariant(10)
@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("foo", "is not a database URL"),
        ("", "is not a database URL"),
        ("sqlite+aiosqlite://s3cret/x", "is not a database URL"),
        ("postgresql+asyncpg://u:s3cret@h:port/d", "is not a database URL"),
        ("postgresql+psycopg://u:s3cret@h/d", "names a driver"),
        ("sqlite:///s3cret.db", "names a driver"),
        ("postgresql+nosuch://u:s3cret@h/d", "names a driver"),
        ("nosuch://u:s3cret@h/d", "names a driver"),
        ("postgresql://u:s3cret@h/d?sslmode=verify-full&sslrootcert=/no/such/s3cret", "names authorities"),
        ("postgresql://u:s3cret@h/d?ssl=verify-ca&sslrootcert=/dev/null", "names authorities"),
        ("postgresql://u:s3cret@h/d?ssl=verify-ca&sslrootcert=a&sslrootcert=b", "is not a database URL"),
    ],
)
def test_a_store_that_cannot_be_opened_is_named_without_its_password(url: str, problem: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Database.open(url)
    assert refused.value.reason is Reason.CONFIG_INVALID
    assert refused.value.message.startswith(f"store_url {problem}")
    assert "s3cret" not in "".join(traceback.format_exception(refused.value))


async def test_a_url_with_what_the_driver_does_not_take_is_refused_and_not_waited_for(postgres: Postgres) -> None:
    for parameter in ("no_such_parameter=s3cret", "sslmode=s3cret"):
        database = Database.open(f"{postgres.create_database()}?{parameter}")
        with pytest.raises(InvalidArgument) as refused:
            await database.migrate()
        assert refused.value.reason is Reason.CONFIG_INVALID
        assert "s3cret" not in "".join(traceback.format_exception(refused.value))
        await database.close()


async def test_a_schema_of_a_later_version_is_refused_and_left_alone(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(FailedPrecondition) as refused:
        await database.migrate()
    assert refused.value.reason is Reason.DATA_DIR_FOREIGN
    async with database.transaction() as connection:
        assert await connection.scalar(text("SELECT version_num FROM alembic_version")) == "9999"


async def test_migrating_to_what_is_long_past_changes_nothing(database: Database) -> None:
    await database.migrate(revision="0002")
    async with database.transaction() as connection:
        assert await connection.run_sync(differences) == []


# What is remembered of the store, and how long it is waited for


async def fail(database: Database) -> None:
    with pytest.raises(Unavailable):
        async with database.transaction() as connection:
            await connection.execute(text("SELECT * FROM no_such_table"))


async def test_the_store_s_health_is_that_of_its_last_transaction(database: Database) -> None:
    assert database.health.check().health is Health.GOOD
    await fail(database)
    check = database.health.check()
    assert check.health is Health.DEGRADED, "what is in memory is still served"
    assert "no_such_table" in check.text
    async with database.reading() as connection:
        await connection.execute(text("SELECT 1"))
    assert database.health.check().health is Health.DEGRADED, "a full store can be read too"
    async with database.transaction():
        pass
    assert database.health.check().health is Health.GOOD


async def test_a_refusal_of_what_was_asked_is_no_illness_of_the_store(database: Database) -> None:
    for _ in range(2):
        with suppress(Unavailable):
            async with database.transaction() as connection:
                await connection.execute(bundles.insert().values(trust_domain="a.test", sequence=1, digest="d"))
    with pytest.raises(ZeroDivisionError):
        async with database.transaction():
            raise ZeroDivisionError
    assert database.health.check().health is Health.GOOD


async def test_a_block_that_takes_too_long_is_given_up_and_leaves_no_trace(database: Database) -> None:
    async def hang() -> None:
        async with database.transaction(seconds=0.2) as connection:
            await connection.execute(bundles.insert().values(trust_domain="a.test", sequence=1, digest="d"))
            await asyncio.Event().wait()

    with pytest.raises(Unavailable) as refused:
        await hang()
    assert "did not answer in time" in refused.value.message
    async with database.reading() as connection:
        assert await connection.scalar(select(func.count()).select_from(bundles)) == 0


@pytest.mark.invariant(5, 12)
async def test_whoever_is_cancelled_at_any_instant_leaves_no_lock_behind(database: Database) -> None:
    async def write() -> None:
        async with database.transaction() as connection:
            row = "INSERT INTO bundle (trust_domain, sequence, digest) VALUES ('x', 1, 'd')"
            await connection.execute(text(f"{row} ON CONFLICT DO NOTHING"))
            await connection.execute(text("SELECT 1"))

    await write()
    gc.disable()  # it would free what was left behind
    try:
        for turns in range(60):
            cut_off = asyncio.create_task(write())
            for _ in range(turns):
                await asyncio.sleep(0)
            cut_off.cancel()
            await asyncio.wait({cut_off})
            async with asyncio.timeout(2):
                await write()
    finally:
        gc.enable()


async def test_a_file_that_is_read_only_can_be_read_and_is_unavailable_to_writers(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    writable = Database.open(f"sqlite+aiosqlite:///{path}")
    await writable.migrate()
    database = Database.open(f"sqlite+aiosqlite:///file:{path}?mode=ro&uri=true")
    async with database.reading() as connection:
        assert await connection.scalar(select(func.count()).select_from(bundles)) == 0
    with pytest.raises(Unavailable) as refused:
        async with database.transaction() as connection:
            await connection.execute(bundles.insert().values(trust_domain="a.test", sequence=1, digest="d"))
    assert refused.value.reason is Reason.STORE_UNAVAILABLE
    assert "readonly" in refused.value.message
    for one in (database, writable):
        await one.close()


# Sealed keys in the store


def keys_in(database: Database, *, kek: bytes = bytes(32)) -> SealedKeyManager:
    return SealedKeyManager(keys=SqlKeys(database=database), trust_domain=TrustDomain("a.test"), sealer=KekSealer(kek))


@pytest.mark.invariant(1)
async def test_a_key_in_the_store_is_sealed_and_opens_for_every_server_that_has_the_kek(
    database: Database, store_url: str
) -> None:
    key_id = await keys_in(database).create(KeyPurpose.ISSUER)
    made = await keys_in(database).signer(key_id, KeyPurpose.ISSUER)
    async with database.reading() as connection:
        sealed = await connection.scalar(select(sealed_keys.c.sealed))
    assert made.private_numbers().private_value.to_bytes(32, "big") not in sealed
    other = Database.open(store_url)
    assert (await keys_in(other).signer(key_id, KeyPurpose.ISSUER)).private_numbers() == made.private_numbers()
    for wrong in (
        keys_in(other, kek=b"1" * 32).signer(key_id, KeyPurpose.ISSUER),
        keys_in(other).signer(key_id, KeyPurpose.ROOT),
        keys_in(other).signer("f" * 32, KeyPurpose.ISSUER),
    ):
        with pytest.raises(FailedPrecondition) as refused:
            await wrong
        assert refused.value.reason is Reason.KEY_UNSEALABLE
    await other.close()


async def test_a_deleted_key_is_gone_and_deleting_it_again_is_no_error(database: Database) -> None:
    keys = keys_in(database)
    key_id = await keys.create(KeyPurpose.ISSUER)
    await keys.delete(key_id)
    await keys.delete(key_id)
    with pytest.raises(FailedPrecondition):
        await keys.signer(key_id, KeyPurpose.ISSUER)
