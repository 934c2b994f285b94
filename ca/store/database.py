"""Opening the database, and bringing its schema up to date."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import alembic.command
import alembic.config
from sqlalchemy import Connection, event
from sqlalchemy.exc import ArgumentError, InvalidRequestError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from citadel.errors import InvalidArgument, Reason, Unavailable

_MIGRATIONS: Final = Path(__file__).with_name("migrations")
_BUSY_MILLISECONDS: Final = 5000


class Fence(Protocol):
    """Says whether this process may still write, as part of every transaction."""

    async def check(self, connection: AsyncConnection) -> None:
        """Raises `Unavailable` (`lease_lost`) where another server owns the store; then nothing is written."""
        ...


class Database:
    """One SQL database. `fence` is asked in every transaction, so that a server that lost its lease writes nothing."""

    def __init__(self, engine: AsyncEngine, *, fence: Fence | None = None) -> None:
        self.engine = engine
        self._fence = fence

    @classmethod
    def open(cls, url: str) -> Database:
        """A database at `sqlite+aiosqlite:///…` or a PostgreSQL URL. Nothing is connected yet.

        Raises `InvalidArgument` (`config_invalid`) for a URL that is none or whose driver is not there. The URL, which
        can hold a password, is not repeated.
        """
        try:
            engine = create_async_engine(url)
        except (NoSuchModuleError, InvalidRequestError, ImportError):
            raise _bad_url("names a driver that is not installed, or one that is not made for asyncio") from None
        except (ArgumentError, ValueError):
            raise _bad_url("is not a database URL that SQLAlchemy can read") from None
        if engine.dialect.name == "sqlite":
            event.listen(engine.sync_engine, "connect", _prepare_sqlite)
            event.listen(engine.sync_engine, "begin", _begin_sqlite)
        return cls(engine)

    def fenced(self, fence: Fence) -> Database:
        """The same database, with `fence` asked in every transaction."""
        return Database(self.engine, fence=fence)

    async def migrate(self, *, revision: str = "head") -> None:
        """Bring the schema to `revision`."""
        async with self.transaction() as connection:
            await connection.run_sync(_migrate, revision)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """One transaction, durable when the block ends.

        Raises `Unavailable`: `store_unavailable` where the database fails, `lease_lost` where the fence says so.
        """
        try:
            async with self.engine.begin() as connection:
                if self._fence is not None:
                    await self._fence.check(connection)
                yield connection
        except (SQLAlchemyError, OSError) as error:
            raise Unavailable(
                Reason.STORE_UNAVAILABLE,
                f"the store does not take this now: {_root_cause(error)}",
                fix="look at the disk and the database of the server",
            ) from error

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()


def _migrate(connection: Connection, revision: str) -> None:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    alembic.command.upgrade(config, revision)


def _bad_url(problem: str) -> InvalidArgument:
    return InvalidArgument(
        Reason.CONFIG_INVALID,
        f"store_url {problem}",
        fix="write sqlite+aiosqlite:///file or postgresql+asyncpg://user@host/database, and install that driver",
    )


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own transactions leave DDL and reads outside: a crash during a migration would keep half of it.
    connection.isolation_level = None
    cursor = connection.cursor()
    # WAL lets readers go on during a commit; FULL makes a commit survive a power cut, which invariant 2 rests on.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_MILLISECONDS}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # IMMEDIATE, because a transaction that reads before it writes fails at once when another one wrote in between.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _root_cause(error: Exception) -> str:
    return str(getattr(error, "orig", None) or type(error).__name__)
