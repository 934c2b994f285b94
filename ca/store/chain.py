"""The heads and segments of the hash chains in SQL. `ca.ledger.chain` says what they mean."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, Table, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.ledger.chain import Head, Log, Segment
from ca.ledger.checkpoints import Checkpoint, CheckpointKind, read_unverified
from ca.store.schema import audit, checkpoints, ledger, segments

TABLES: Final[dict[Log, Table]] = {Log.LEDGER: ledger, Log.AUDIT: audit}
# What is hashed of a row, in this order, after its writer and position: format 1 of `ca.ledger.chain`.
LEDGER_FIELDS: Final = (
    "serial",
    "spiffe_id",
    "entry_id",
    "requested_by",
    "issuer_id",
    "public_key",
    "not_before",
    "not_after",
    "issued_at",
    "limited_by",
)
AUDIT_FIELDS: Final = ("at", "actor_kind", "actor", "what", "target", "detail", "why", "reason", "count")
FIELDS: Final = {Log.LEDGER: LEDGER_FIELDS, Log.AUDIT: AUDIT_FIELDS}


async def begin_segment(connection: AsyncConnection, log: Log, *, writer: str, at: datetime) -> Segment:
    """Record that `writer` goes on with `log` after whoever wrote last."""
    before = await newest_segment(connection, log)
    segment = Segment(
        log=log,
        writer=writer,
        begun_at=at,
        after=await head_of(connection, before) if before else None,
        unchained=0 if before else await _count_unchained(connection, log),
    )
    after = segment.after or Head("", 0, b"")
    await connection.execute(
        insert(segments).values(
            log=log.value,
            writer=writer,
            begun_at=at,
            after_writer=after.writer,
            after_position=after.position,
            after_hash=after.hash,
            unchained=segment.unchained,
        )
    )
    return segment


async def newest_segment(connection: AsyncConnection, log: Log) -> Segment | None:
    """The segment that is written now, locked until the transaction ends: rows are chained one after the other."""
    newest = select(segments).where(segments.c.log == log.value).order_by(segments.c.number.desc()).limit(1)
    row = (await connection.execute(newest.with_for_update())).one_or_none()
    return segment_from_row(row) if row is not None else None


async def head_of(connection: AsyncConnection, segment: Segment) -> Head:
    """The last row of `segment`; where all were pruned its anchor, and before the first row its genesis."""
    table = TABLES[segment.log]
    last = (
        select(table.c.position, table.c.hash)
        .where(table.c.writer == segment.writer)
        .order_by(table.c.position.desc())
        .limit(1)
    )
    row = (await connection.execute(last)).one_or_none()
    if row is not None:
        return Head(segment.writer, row.position, row.hash)
    return await start_of(connection, segment)


async def start_of(connection: AsyncConnection, segment: Segment) -> Head:
    """Where the rows of `segment` that are left begin: its anchor if it was pruned, else its genesis."""
    anchor = await anchor_of(connection, segment)
    return anchor.head if anchor is not None else segment.genesis()


async def anchor_of(connection: AsyncConnection, segment: Segment) -> Checkpoint | None:
    """The anchor that pruning left in `segment`, if it did."""
    jws = await connection.scalar(
        select(checkpoints.c.jws).where(
            checkpoints.c.log == segment.log.value,
            checkpoints.c.writer == segment.writer,
            checkpoints.c.kind == CheckpointKind.ANCHOR.value,
        )
    )
    return read_unverified(jws) if jws is not None else None


def segment_from_row(row: Row[Any]) -> Segment:
    """A segment as it is recorded."""
    after = Head(row.after_writer, row.after_position, row.after_hash) if row.after_writer else None
    return Segment(log=Log(row.log), writer=row.writer, begun_at=row.begun_at, after=after, unchained=row.unchained)


async def _count_unchained(connection: AsyncConnection, log: Log) -> int:
    table = TABLES[log]
    return int(await connection.scalar(select(func.count()).select_from(table).where(table.c.writer.is_(None))) or 0)
