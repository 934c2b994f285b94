"""Opening the database, and transactions that end within a bounded time, one way or the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final, Protocol, TypeVar

import alembic.command
import alembic.config
import alembic.util
from sqlalchemy import Connection, text
from sqlalchemy.exc import ArgumentError, IntegrityError, InvalidRequestError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ca.store.direct import DirectSqlite
from ca.store.engines import make_engine
from ca.store.health import StoreHealth
from citadel.errors import CitadelError, FailedPrecondition, InvalidArgument, Reason, Unavailable

_MIGRATIONS: Final = Path(__file__).with_name("migrations")
# Longer than a driver waits for its database by itself, so that its own, better explained error comes first.
_LONGEST_SECONDS: Final = 15.0
# Any number will do, if it is always the same and nobody else's: PostgreSQL's advisory locks have no names.
_MIGRATION_LOCK: Final = 0x0C17ADE1

_T = TypeVar("_T")


class Fence(Protocol):
    """Says whether this process may still write, as part of every transaction."""

    def check(self, connection: Connection) -> None:
        """Raises `Unavailable` (`lease_lost`) where another server owns the store; then nothing is written.

        May be asked on any thread.
        """
        ...

    def note_lost(self) -> None:
        """Told, on the loop's thread, that `check` raised."""
        ...


class Database:
    """One SQL database. `fence` is asked in every transaction, so that a server that lost its lease writes nothing."""

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        direct: DirectSqlite | None,
        health: StoreHealth | None = None,
        fence: Fence | None = None,
    ) -> None:
        """`direct` is another way into the same database, for `at_once`."""
        self.engine = engine
        self.health = health or StoreHealth()
        self._direct = direct
        self._fence = fence

    @classmethod
    def open(cls, url: str) -> Database:
        """A database at `sqlite+aiosqlite:///…` or `postgresql://…` (driver asyncpg). Nothing is connected yet.

        Raises `InvalidArgument` (`config_invalid`) for a URL that is none or whose driver is not there. The URL, which
        can hold a password, is not repeated.
        """
        try:
            engine = make_engine(url)
            return cls(engine, direct=DirectSqlite(engine.url) if engine.dialect.name == "sqlite" else None)
        except (NoSuchModuleError, InvalidRequestError, ImportError):
            raise _bad_url("names a driver that is not installed, or one that is not made for asyncio") from None
        except OSError:
            raise _bad_url("names authorities (sslrootcert) that cannot be read") from None
        except (ArgumentError, ValueError, TypeError):
            raise _bad_url("is not a database URL that SQLAlchemy can read") from None

    def fenced(self, fence: Fence) -> Database:
        """The same database, with `fence` asked in every transaction."""
        return Database(self.engine, direct=self._direct, health=self.health, fence=fence)

    async def migrate(self, *, revision: str = "head") -> None:
        """Bring the schema to `revision`, or leave it where it is past that.

        Raises `FailedPrecondition` (`data_dir_foreign`) for a schema that this version does not know.
        """
        # Making tables and filling new columns can take longer than anything that somebody waits for.
        async with self.transaction(seconds=None) as connection:
            if self.engine.dialect.name == "postgresql":
                # Two servers that start on one empty database; SQLite's transactions exclude each other anyway.
                await connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
            await connection.run_sync(_migrate, revision)

    @asynccontextmanager
    async def transaction(self, *, seconds: float | None = _LONGEST_SECONDS) -> AsyncIterator[AsyncConnection]:
        """One transaction, durable when the block ends; given up after `seconds`, with nothing written.

        Raises `Unavailable`: `store_unavailable` where the database fails, `lease_lost` where the fence says so.
        """
        with self._reported():
            async with asyncio.timeout(seconds), self._connected() as connection, connection.begin():
                if self._fence is not None:
                    await connection.run_sync(self._fence.check)
                yield connection

    async def at_once(self, work: Callable[[Connection], _T]) -> _T:
        """What `work` returns: a transaction like `transaction`, for what is written many times a second.

        `work` may run on another thread, and must not wait for anything but its database. Raises as `transaction`; but
        where the time is up it may still come through.
        """
        with self._reported():
            async with asyncio.timeout(_LONGEST_SECONDS):
                if self._direct is not None:
                    return await self._direct.run(lambda connection: self._fenced_work(connection, work))
                async with self._connected() as connection, connection.begin():
                    return await connection.run_sync(self._fenced_work, work)

    def _fenced_work(self, connection: Connection, work: Callable[[Connection], _T]) -> _T:
        if self._fence is not None:
            self._fence.check(connection)
        return work(connection)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Translates what a transaction raises, and notes how the store is."""
        try:
            yield
        except (SQLAlchemyError, OSError) as error:
            refusal = _unavailable(error)
            if not isinstance(error, IntegrityError):  # that is what was asked, not the store
                self.health.note(refusal.message)
            raise refusal from error
        except CitadelError as error:
            if error.reason is Reason.STORE_UNAVAILABLE:
                self.health.note(error.message)
            if error.reason is Reason.LEASE_LOST and self._fence is not None:
                self._fence.note_lost()
            raise
        self.health.note(None)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that only reads, without the fence; it also works where the store cannot be written."""
        try:
            async with asyncio.timeout(_LONGEST_SECONDS), self._connected() as connection:
                await connection.execution_options(only_reads=True)
                async with connection.begin():
                    yield connection
        except (SQLAlchemyError, OSError) as error:
            raise _unavailable(error) from error

    async def close(self) -> None:
        """Close every connection, also of those that share them (`fenced`)."""
        if self._direct is not None:
            await self._direct.close()
        await self.engine.dispose()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncConnection]:
        connection = self.engine.connect()
        try:
            await connection.start()
        except Exception as error:
            # Each driver has errors of its own here, and SQLAlchemy passes some of them on as they are.
            cause = _cause(error)
            # A certificate that is not believed is a ValueError too, and may be replaced.
            if isinstance(cause, TypeError | ValueError) and not isinstance(cause, OSError):
                raise _bad_url("has a parameter that the driver does not take") from None
            raise _unavailable(error) from error
        async with AsyncExitStack() as stack:
            stack.push_async_exit(connection)
            yield connection


def _migrate(connection: Connection, revision: str) -> None:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    try:
        alembic.command.upgrade(config, revision)
    except alembic.util.CommandError as error:
        raise FailedPrecondition(
            Reason.DATA_DIR_FOREIGN,
            f"the store has a schema that this version does not know: {error}",
            fix="run the version of Citadel that made it, or a newer one",
        ) from error


def _bad_url(problem: str) -> InvalidArgument:
    return InvalidArgument(
        Reason.CONFIG_INVALID,
        f"store_url {problem}",
        fix="write sqlite+aiosqlite:///file or postgresql://user@host/database, and install the driver (asyncpg)",
    )


def _unavailable(error: Exception) -> Unavailable:
    return Unavailable(
        Reason.STORE_UNAVAILABLE,
        f"the store does not take this now: {_root_cause(error)}",
        fix="look at the disk and the database of the server",
    )


def _root_cause(error: Exception) -> str:
    """One line of the database's own words; SQLAlchemy's would repeat the statement with all its values."""
    cause = _cause(error)
    if isinstance(cause, TimeoutError | PoolTimeout):
        return "it did not answer in time"
    if isinstance(cause, SQLAlchemyError):
        return type(cause).__name__
    lines = str(cause).splitlines()
    return lines[0] if lines else type(cause).__name__


def _cause(error: Exception) -> BaseException:
    """The driver's own error, which SQLAlchemy wraps once or, for asyncpg, twice."""
    wrapped = getattr(error, "orig", None)
    return error if wrapped is None else wrapped.__cause__ or wrapped
