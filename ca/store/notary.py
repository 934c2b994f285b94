"""Checkpoints, anchors and the keys that sign them, in SQL; and pruning, which leaves an anchor."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.ledger.chain import Head, Log, Segment, link
from ca.ledger.checkpoints import Checkpoint, CheckpointKind
from ca.ledger.notary import RecordKey
from ca.store.chain import TABLES, anchor_of, head_of, newest_segment, segment_from_row, start_of
from ca.store.database import Database
from ca.store.records import chained_row, hashed_columns
from ca.store.schema import audit, checkpoints, ledger, record_keys, segments
from citadel.errors import FailedPrecondition, Reason

# So few that nobody waits long for the store while old rows are removed.
_ROWS_AT_ONCE: Final = 2000
# When a row has ended: a certificate, when it expires; an act, when it was done.
_ENDS: Final = {Log.LEDGER: ledger.c.not_after, Log.AUDIT: audit.c.at}


class SqlNotaryStore:
    """Fulfils `ca.ledger.notary.NotaryStore`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def keys(self) -> Sequence[RecordKey]:
        newest_last = select(record_keys).order_by(record_keys.c.created_at)
        async with self._database.reading() as connection:
            return [
                RecordKey(
                    fingerprint=row.fingerprint,
                    key_id=row.key_id,
                    public_key=row.public_key,
                    created_at=row.created_at,
                )
                for row in await connection.execute(newest_last)
            ]

    async def add_key(self, key: RecordKey) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(
                insert(record_keys).values(
                    fingerprint=key.fingerprint,
                    key_id=key.key_id,
                    public_key=key.public_key,
                    created_at=key.created_at,
                )
            )

    async def unsigned_head(self, log: Log) -> Head | None:
        async with self._database.reading() as connection:
            newest = select(segments).where(segments.c.log == log.value).order_by(segments.c.number.desc()).limit(1)
            row = (await connection.execute(newest)).one_or_none()
            if row is None:
                return None
            head = await head_of(connection, segment_from_row(row))
            signed = select(func.max(checkpoints.c.position)).where(
                checkpoints.c.log == log.value, checkpoints.c.writer == head.writer
            )
            signed_until = await connection.scalar(signed)
        return head if head.position > (signed_until or 0) else None

    async def add(self, checkpoint: Checkpoint, jws: str) -> None:
        async with self._database.transaction() as connection:
            await _insert(connection, checkpoint, jws)

    async def writers(self, log: Log) -> Sequence[str]:
        async with self._database.reading() as connection:
            found = select(segments.c.writer).where(segments.c.log == log.value).order_by(segments.c.number)
            return list(await connection.scalars(found))

    async def prunable(self, log: Log, *, before: datetime) -> int:
        table, ends = TABLES[log], _ENDS[log]
        count = 0
        for writer in await self.writers(log):
            own = table.c.writer == writer
            first_kept = select(table.c.position).where(own, ends >= before).order_by(table.c.position).limit(1)
            old = select(func.count()).select_from(table).where(own)
            async with self._database.reading() as connection:
                kept_from = await connection.scalar(first_kept)
                if kept_from is not None:
                    old = old.where(table.c.position < kept_from)
                count += int(await connection.scalar(old) or 0)
        return count

    async def anchor(self, log: Log, writer: str, *, before: datetime, at: datetime) -> Checkpoint | None:
        async with self._database.reading() as connection:
            segment = await _segment(connection, log, writer)
            genesis = await _genesis(connection, segment)
            head, rows = await _old_rows(connection, segment, before)
        return Checkpoint(log=log, head=head, at=at, kind=CheckpointKind.ANCHOR, genesis=genesis) if rows else None

    async def prune(self, anchor: Checkpoint, jws: str, *, before: datetime) -> int:
        log, writer, table = anchor.log, anchor.head.writer, TABLES[anchor.log]
        async with self._database.transaction() as connection:
            if log is Log.AUDIT:
                await newest_segment(connection, log)  # takes the lock: nobody reads the head while it is removed
            segment = await _segment(connection, log, writer)
            genesis = await _genesis(connection, segment)
            head, rows = await _old_rows(connection, segment, before)
            if (head, genesis) != (anchor.head, anchor.genesis):
                return 0
            await connection.execute(delete(table).where(table.c.writer == writer, table.c.position <= head.position))
            await connection.execute(
                delete(checkpoints).where(
                    checkpoints.c.log == log.value,
                    checkpoints.c.writer == writer,
                    checkpoints.c.position <= head.position,
                )
            )
            await _insert(connection, anchor, jws)
        return rows


async def _old_rows(connection: AsyncConnection, segment: Segment, before: datetime) -> tuple[Head, int]:
    """The last row that can be removed now, and how many; checked, so that pruning never covers up a change."""
    table, ends = TABLES[segment.log], _ENDS[segment.log]
    head, count = await start_of(connection, segment), 0
    page = (
        select(ends.label("ends"), table.c.number, table.c.position, table.c.hash, *hashed_columns(segment.log))
        .where(table.c.writer == segment.writer)
        .order_by(table.c.position)
        .limit(_ROWS_AT_ONCE)
    )
    for ended, *row in await connection.execute(page):
        if ended >= before:
            break
        found = chained_row(segment.log, segment.writer, row)
        if found.position != head.position + 1 or link(head.hash, found.record) != found.hash:
            raise FailedPrecondition(
                Reason.CHAIN_BROKEN,
                f"row {found.position} of writer {segment.writer} in the {segment.log} is not what was written",
                fix="look at it with `citadel-cli audit verify`",
            )
        head, count = Head(segment.writer, found.position, found.hash), count + 1
    return head, count


async def _genesis(connection: AsyncConnection, segment: Segment) -> bytes:
    """With what the segment began. Raises `FailedPrecondition` (`chain_broken`) where it now says otherwise."""
    now, anchor = segment.genesis().hash, await anchor_of(connection, segment)
    if anchor is not None and anchor.genesis != now:
        raise FailedPrecondition(
            Reason.CHAIN_BROKEN,
            f"the beginning of writer {segment.writer} in the {segment.log} is not what was written",
            fix="look at it with `citadel-cli audit verify`",
        )
    return now


async def _segment(connection: AsyncConnection, log: Log, writer: str) -> Segment:
    found: Row[Any] = (
        await connection.execute(select(segments).where(segments.c.log == log.value, segments.c.writer == writer))
    ).one()
    return segment_from_row(found)


async def _insert(connection: AsyncConnection, checkpoint: Checkpoint, jws: str) -> None:
    await connection.execute(
        insert(checkpoints).values(
            log=checkpoint.log.value,
            writer=checkpoint.head.writer,
            position=checkpoint.head.position,
            kind=checkpoint.kind.value,
            jws=jws,
        )
    )
