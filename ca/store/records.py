"""Reading the chains from SQL, to check them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from sqlalchemy import BigInteger, ColumnElement, func, select, type_coerce

from ca.ledger.chain import ChainedRow, Head, Log, record
from ca.ledger.verify import ChainState, PublicKeys, key_of
from ca.store.chain import FIELDS, TABLES, segment_from_row
from ca.store.database import Database
from ca.store.schema import checkpoints, record_keys, segments
from ca.store.types import Moment

_ROWS_AT_ONCE: Final = 2000


class SqlRecords:
    """Fulfils `ca.ledger.verify.Records`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def keys(self) -> PublicKeys:
        newest_last = select(record_keys).order_by(record_keys.c.created_at)
        async with self._database.reading() as connection:
            return {row.fingerprint: key_of(row.public_key) for row in await connection.execute(newest_last)}

    async def state(self, log: Log) -> ChainState:
        table = TABLES[log]
        async with self._database.reading() as connection:
            recorded = select(segments).where(segments.c.log == log.value).order_by(segments.c.number)
            found = [segment_from_row(row) for row in await connection.execute(recorded)]
            signed = select(checkpoints.c.jws).where(checkpoints.c.log == log.value).order_by(checkpoints.c.number)
            jws = list(await connection.scalars(signed))
            counted = await connection.execute(select(table.c.writer, func.count()).group_by(table.c.writer))
            census = {str(writer or ""): int(rows) for writer, rows in counted}
        return ChainState(segments=found, signed=jws, census=census)

    async def rows(self, log: Log, after: Head) -> AsyncIterator[Sequence[ChainedRow]]:
        table, at = TABLES[log], after.position
        columns = (table.c.number, table.c.position, table.c.hash, *hashed_columns(log))
        while True:
            page = (
                select(*columns)
                .where(table.c.writer == after.writer, table.c.position > at)
                .order_by(table.c.position)
                .limit(_ROWS_AT_ONCE)
            )
            async with self._database.reading() as connection:
                found = (await connection.execute(page)).all()
            if not found:
                return
            at = found[-1].position
            yield [chained_row(log, after.writer, row) for row in found]


def hashed_columns(log: Log) -> list[ColumnElement[Any]]:
    """The columns whose values are hashed, in their order, with times as the numbers that they are stored as."""
    columns = (TABLES[log].c[name] for name in FIELDS[log])
    return [
        type_coerce(column, BigInteger).label(column.name) if isinstance(column.type, Moment) else column
        for column in columns
    ]


def chained_row(log: Log, writer: str, row: Sequence[Any]) -> ChainedRow:
    """A row of number, position, hash and `hashed_columns`."""
    number, position, row_hash, *fields = row
    return ChainedRow(
        number=number,
        writer=writer,
        position=position,
        hash=row_hash or b"",
        record=record(log, writer, position, fields),
    )
