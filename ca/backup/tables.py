"""All tables as plain rows: the same numbers, texts and bytes in every database. New tables and columns come along."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    delete,
    func,
    insert,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeDecorator, TypeEngine

from ca.backup.format import Row, TableHead
from ca.store.schema import lease, metadata, sealed_keys

# The lease is of the store that is there. Sealed keys lie in the database or in files: they have a place of their own.
_NOT_COPIED: Final = frozenset({lease.name, sealed_keys.name})
_ROWS_AT_ONCE: Final = 1000
_TYPES: Final[dict[str, TypeEngine[Any]]] = {
    "int": BigInteger(),
    "text": String(),
    "bool": Boolean(),
    "bytes": LargeBinary(),
}


def heads() -> list[TableHead]:
    """Every table of today's schema that is copied."""
    return [
        TableHead(table.name, tuple((column.name, _kind(column)) for column in table.columns))
        for table in metadata.sorted_tables
        if table.name not in _NOT_COPIED
    ]


def plain(head: TableHead) -> Table:
    """A table whose values are those that the database has, without meaning."""
    return Table(head.name, MetaData(), *(Column(name, _TYPES[kind]) for name, kind in head.columns))


async def rows_of(connection: AsyncConnection, head: TableHead) -> AsyncIterator[Sequence[Row]]:
    """The rows of a table in portions, none of them twice in memory."""
    result = await connection.stream(select(plain(head)))
    async for portion in result.partitions(_ROWS_AT_ONCE):
        yield [tuple(row) for row in portion]


async def insert_rows(connection: AsyncConnection, head: TableHead, rows: Sequence[Row]) -> None:
    """Insert rows as `rows_of` gave them."""
    names = [name for name, _ in head.columns]
    if rows:
        await connection.execute(insert(plain(head)), [dict(zip(names, row, strict=True)) for row in rows])


async def is_empty(connection: AsyncConnection) -> bool:
    """Whether nothing was ever kept here."""
    for head in heads():
        if await connection.scalar(select(func.count()).select_from(plain(head).select().limit(1).subquery())):
            return False
    return True


async def clear(connection: AsyncConnection) -> None:
    """Delete every row of what is copied."""
    for head in heads():
        await connection.execute(delete(plain(head)))


async def counters(connection: AsyncConnection) -> dict[str, int]:
    """The last number that each table gave to a row, even to one that is gone."""
    found: dict[str, int] = {}
    for table, column in _numbered():
        if connection.dialect.name == "sqlite":
            last = await connection.scalar(text("SELECT seq FROM sqlite_sequence WHERE name = :name"), {"name": table})
        else:
            sequence = await connection.scalar(select(func.pg_get_serial_sequence(table, column)))
            last = await connection.scalar(text(f"SELECT CASE WHEN is_called THEN last_value END FROM {sequence}"))  # noqa: S608 - the database's own name
        found[table] = int(last or 0)
    return found


async def count_on(connection: AsyncConnection, last: dict[str, int]) -> None:
    """Let each table give numbers above those of `last` and above those that it has."""
    for table, column in _numbered():
        least = last.get(table, 0)
        if connection.dialect.name == "sqlite":
            await connection.execute(
                text("DELETE FROM sqlite_sequence WHERE name = :name AND seq < :seq"), {"name": table, "seq": least}
            )
            known = await connection.scalar(text("SELECT seq FROM sqlite_sequence WHERE name = :name"), {"name": table})
            if known is None and least:
                await connection.execute(
                    text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :seq)"), {"name": table, "seq": least}
                )
            continue
        highest = await connection.scalar(select(func.max(metadata.tables[table].c[column])))
        least = max(least, int(highest or 0))
        if least:
            await connection.execute(select(func.setval(func.pg_get_serial_sequence(table, column), least)))


def _numbered() -> list[tuple[str, str]]:
    return [
        (table.name, table.autoincrement_column.name)
        for table in metadata.sorted_tables
        if table.name not in _NOT_COPIED
        and table.autoincrement_column is not None
        and table.c[table.autoincrement_column.name].autoincrement is True
    ]


def _kind(column: Column[Any]) -> str:
    kind = column.type
    if isinstance(kind, TypeDecorator):
        kind = kind.impl_instance
    for name, known in (("bool", Boolean), ("int", Integer), ("text", String), ("bytes", LargeBinary)):
        if isinstance(kind, known):
            return name
    raise TypeError(f"column {column} is of a kind that no backup has")
