"""The ledger in SQL: one writer, one commit in flight, rows of concurrent requests grouped into it and chained.

A commit costs the same for 32 rows as for one, so whoever waits for a commit takes all that came meanwhile along.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import structlog
from sqlalchemy import Connection, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.issuance.ledger import LedgerRow
from ca.ledger.chain import Head, Log, link, microseconds, record
from ca.store.chain import LEDGER_FIELDS, begin_segment, head_of, newest_segment
from ca.store.database import Database
from ca.store.schema import ledger
from citadel.clock import Clock, SystemClock
from citadel.errors import CitadelError, PermissionDenied, Reason, Unavailable
from citadel.spiffe import SpiffeId

_log = structlog.get_logger(__name__)

# A commit waits while more rows keep coming: so many times so long, or until there are enough.
_LINGER_SECONDS: Final = 0.001
_MOST_LINGERS: Final = 10
_ENOUGH_ROWS: Final = 64
_MOST_WAITING: Final = 10_000

_COLUMNS: Final = (*LEDGER_FIELDS, "writer", "position", "hash")

OnCommit = Callable[[int], None]


@dataclass(slots=True, eq=False)
class _Append:  # compared by identity
    rows: Sequence[LedgerRow]
    done: asyncio.Future[CitadelError | None]  # None once they are durable


class SqlLedger:
    """Fulfils `ca.issuance.ledger.Ledger`; `run` writes, for as long as the server lives."""

    def __init__(
        self,
        *,
        database: Database,
        is_banned: Callable[[SpiffeId], bool],
        is_revoked: Callable[[LedgerRow], bool] = lambda _: False,
        clock: Clock | None = None,
        on_commit: OnCommit = lambda _: None,
    ) -> None:
        """`is_revoked` says what may not become real any more; `on_commit` is told how many rows each commit has."""
        self._database = database
        self._is_banned = is_banned
        self._is_revoked = is_revoked
        self._one_commit = asyncio.Lock()
        self._clock = clock or SystemClock()
        self._on_commit = on_commit
        self._statement = _insert_statement(database)
        # Known only while nobody else can have written: not at the start, and not after a commit that failed, of which
        # nobody knows whether it came through.
        self._head: Head | None = None
        self._writer = uuid4().hex
        self._waiting: list[_Append] = []
        self._waiting_rows = 0
        self._arrived = asyncio.Event()

    @property
    def waiting_rows(self) -> int:
        """How many rows wait for a commit."""
        return self._waiting_rows

    async def append(self, rows: Sequence[LedgerRow]) -> None:
        for refusal in await self._appended([rows] if rows else []):
            if refusal is not None:
                raise refusal

    async def append_each(self, rows: Sequence[LedgerRow]) -> Sequence[CitadelError | None]:
        return await self._appended([[row] for row in rows])

    async def _appended(self, groups: Sequence[Sequence[LedgerRow]]) -> Sequence[CitadelError | None]:
        """What becomes of each of the groups, which are refused one by one and share commits."""
        number = sum(map(len, groups))
        if self._waiting_rows + number > _MOST_WAITING:
            return [Unavailable(Reason.STORE_UNAVAILABLE, "the ledger is behind; try again later")] * len(groups)
        loop = asyncio.get_running_loop()
        appends = [_Append(rows, loop.create_future()) for rows in groups]
        self._waiting += appends
        self._waiting_rows += number
        if appends:
            self._arrived.set()
        return await asyncio.gather(*(append.done for append in appends))

    async def settled(self) -> None:
        """Wait until the commit under way, which has asked already who is banned and what is revoked, has ended."""
        async with self._one_commit:
            pass

    async def run(self) -> None:
        """Commit what was appended, for ever. On the way out every waiter is refused, never left hanging."""
        try:
            while True:
                await self._arrived.wait()
                await self._linger()
                batch, self._waiting, self._waiting_rows = self._waiting, [], 0
                self._arrived.clear()
                async with self._one_commit:
                    await self._commit(batch)
        finally:
            self._settle(self._waiting, Unavailable(Reason.STORE_UNAVAILABLE, "the server is stopping"))

    async def _linger(self) -> None:
        for _ in range(_MOST_LINGERS):
            waiting = self._waiting_rows
            if waiting >= _ENOUGH_ROWS:
                return
            await asyncio.sleep(_LINGER_SECONDS)
            if self._waiting_rows == waiting:
                return

    async def _commit(self, batch: Sequence[_Append]) -> None:
        # The last moment before a certificate becomes real: an agent that was banned while its request was in flight
        # gets nothing more.
        banned = [append for append in batch if any(map(self._is_banned, _requesters(append.rows)))]
        self._settle(banned, PermissionDenied(Reason.AGENT_BANNED, "the agent is banned"))
        revoked = [append for append in batch if append not in banned and any(map(self._is_revoked, append.rows))]
        self._settle(revoked, Unavailable(Reason.IDENTITY_REVOKED, "revoked while it was signed: ask again"))
        batch = [append for append in batch if not append.done.done()]
        if not batch:
            return
        try:
            await self._write([row for append in batch for row in append.rows])
        except CitadelError as error:
            _log.error("ledger not written", reason=error.reason, error=str(error), rows=len(batch))
            self._settle(batch, error)
        except BaseException:
            self._settle(batch, Unavailable(Reason.STORE_UNAVAILABLE, "the ledger was not written"))
            raise
        else:
            self._settle(batch, None)

    async def _write(self, rows: Sequence[LedgerRow]) -> None:
        known, self._head = self._head, None
        if known is None:
            async with self._database.transaction() as connection:
                head = await connection.run_sync(self._insert, rows, await self._take_up(connection))
        else:
            head = await self._database.at_once(lambda connection: self._insert(connection, rows, known))
        self._head = head
        self._on_commit(len(rows))

    def _insert(self, connection: Connection, rows: Sequence[LedgerRow], head: Head) -> Head:
        values, head = _chain(rows, head)
        connection.exec_driver_sql(self._statement, values)
        return head

    async def _take_up(self, connection: AsyncConnection) -> Head:
        newest = await newest_segment(connection, Log.LEDGER)
        if newest is not None and newest.writer == self._writer:
            return await head_of(connection, newest)
        if newest is not None:
            self._writer = uuid4().hex  # another server wrote after this one: its chain goes on, in a new segment
        segment = await begin_segment(connection, Log.LEDGER, writer=self._writer, at=self._clock.now())
        return segment.genesis()

    @staticmethod
    def _settle(batch: Sequence[_Append], error: CitadelError | None) -> None:
        for append in batch:
            if not append.done.done():
                append.done.set_result(error)


def _requesters(rows: Sequence[LedgerRow]) -> Iterable[SpiffeId]:
    """Who asked for these rows: for a batch one object, which all of its rows hold."""
    return {id(row.requested_by): row.requested_by for row in rows}.values()


def _insert_statement(database: Database) -> str:
    """The driver's own INSERT: for so many rows SQLAlchemy would spend more time than the database."""
    return str(insert(ledger).inline().compile(dialect=database.engine.dialect, column_keys=_COLUMNS))


def _chain(rows: Sequence[LedgerRow], head: Head) -> tuple[list[tuple[Any, ...]], Head]:
    """The rows as the driver takes them, with their hashes, and the head after them."""
    before, values = head.hash, []
    for position, row in enumerate(rows, start=head.position + 1):
        fields = _fields(row)
        before = link(before, record(Log.LEDGER, head.writer, position, fields))
        values.append((*fields, head.writer, position, before))
    return values, Head(head.writer, head.position + len(rows), before)


def _fields(row: LedgerRow) -> tuple[str | int, ...]:
    """What is hashed, in the order of `LEDGER_FIELDS`."""
    return (
        row.serial,
        str(row.spiffe_id),
        row.entry_id,
        str(row.requested_by),
        row.issuer_id,
        row.public_key,
        microseconds(row.not_before),
        microseconds(row.not_after),
        microseconds(row.issued_at),
        row.limited_by,
    )
