"""Engines: how each kind of database is spoken to, and how long it is waited for."""

from __future__ import annotations

import sqlite3
import ssl
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

# How long a caller waits for the lock of a SQLite file, for a free connection, for a new one, and for one statement.
# Together they bound a call; none is so short that a busy disk would look like a broken one.
_WAIT_SECONDS: Final = 5
# A session that was cut off, or whose process was stopped in the middle of a transaction, keeps its locks until
# PostgreSQL ends it. Longer than any pause between two statements, and short, because a standby may wait for it.
_IDLE_SECONDS: Final = 3
# Pages of 4 KiB that SQLite's log takes before they go to the file: 16 MiB, so that pages of the ledger's indexes,
# which change at every commit, go there a quarter as often as by default.
_PAGES_IN_LOG: Final = 4000


class LettingGo(sqlite3.Connection):
    """A connection that ends its transaction when it is closed.

    A caller that is cancelled in the middle of a statement has its connection closed. SQLite keeps one alive, with its
    lock on the whole store, for as long as a statement of it is: until Python's collector comes by some time.
    """

    def close(self) -> None:
        with suppress(sqlite3.Error):  # one that is closed already
            self.rollback()
        super().close()


def make_engine(url: str) -> AsyncEngine:
    """An engine for `url`. Nothing is connected yet. Raises SQLAlchemy's errors, and `ValueError`, for a bad URL.

    Raises `OSError` where the authorities that a PostgreSQL is to be known by cannot be read.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql":
        plain, tls = _for_asyncpg(parsed)
        options = _postgresql_options() | ({"ssl": tls} if tls is not None else {})
        return create_async_engine(plain, connect_args=options, pool_timeout=_WAIT_SECONDS)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    factory = {"factory": LettingGo} if is_sqlite else {}
    engine = create_async_engine(parsed, connect_args=factory, pool_timeout=_WAIT_SECONDS)
    if is_sqlite:
        _speak_sqlite(engine.sync_engine)
    return engine


def make_plain_engine(url: URL) -> Engine:
    """An engine for the SQLite file of `url` with the driver that blocks, for one thread at a time."""
    engine = create_engine(url.set(drivername="sqlite"), pool_size=1, max_overflow=0)
    _speak_sqlite(engine)
    return engine


def _speak_sqlite(engine: Engine) -> None:
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)


def _for_asyncpg(url: URL) -> tuple[URL, ssl.SSLContext | None]:
    """The URL as asyncpg takes it, and how the database proves itself, where that is asked for.

    asyncpg wants authorities in a file in the home folder. Here they are those of `sslrootcert`, or of the system.
    """
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+asyncpg")
    if "sslmode" in url.query:  # libpq's name, which is what people copy; asyncpg calls it `ssl`
        url = url.difference_update_query(["sslmode"]).update_query_dict({"ssl": url.query["sslmode"]})
    if (mode := url.query.get("ssl")) not in ("verify-ca", "verify-full"):
        return url, None
    tls = ssl.create_default_context(cafile=url.query.get("sslrootcert"))  # type: ignore[arg-type]  # twice: TypeError
    tls.check_hostname = mode == "verify-full"
    return url.difference_update_query(["ssl", "sslrootcert"]), tls


def _postgresql_options() -> dict[str, Any]:
    milliseconds = str(_WAIT_SECONDS * 1000)
    return {
        "timeout": _WAIT_SECONDS,
        "command_timeout": _WAIT_SECONDS,
        "server_settings": {
            "application_name": "citadel",
            # The server's own bound, for a statement whose client is not there any more to give it up.
            "lock_timeout": milliseconds,
            "idle_in_transaction_session_timeout": str(_IDLE_SECONDS * 1000),
        },
    }


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own transactions leave DDL and reads outside: a crash during a migration would keep half of it.
    connection.isolation_level = None
    cursor = connection.cursor()
    # First of all, because the change to WAL needs the lock itself.
    cursor.execute(f"PRAGMA busy_timeout={_WAIT_SECONDS * 1000}")
    # WAL lets readers go on during a commit; FULL makes a commit survive a power cut, which invariant 2 rests on.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute(f"PRAGMA wal_autocheckpoint={_PAGES_IN_LOG}")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # IMMEDIATE, because a transaction that reads before it writes fails at once when another one wrote in between.
    reads = connection.get_execution_options().get("only_reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
