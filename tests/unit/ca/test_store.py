"""The schema and its migrations, and what a crash in the middle of one leaves."""

from __future__ import annotations

import traceback
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

from ca.store.database import Database
from ca.store.schema import bundles, metadata, tokens
from citadel.errors import InvalidArgument, Reason, Unavailable


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
        ("sqlite:///s3cret.db", "names a driver"),
        ("postgresql+nosuch://u:s3cret@h/d", "names a driver"),
        ("nosuch://u:s3cret@h/d", "names a driver"),
    ],
)
def test_a_store_that_cannot_be_opened_is_named_without_its_password(url: str, problem: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Database.open(url)
    assert refused.value.reason is Reason.CONFIG_INVALID
    assert refused.value.message.startswith(f"store_url {problem}")
    assert "s3cret" not in "".join(traceback.format_exception(refused.value))
