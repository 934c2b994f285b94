"""Making a backup: everything as it stood at one moment, while the server goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import BinaryIO

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.backup.format import BackupWriter, Header
from ca.backup.keys import KEYS, KeyShelf
from ca.backup.tables import counters, heads, rows_of
from ca.backup.versions import newest_schema
from ca.keys.manager import Sealer
from ca.keys.sealing import KeyLabel, KeyPurpose
from ca.store.database import Database
from citadel.clock import Clock
from citadel.errors import FailedPrecondition, Reason, Unavailable
from citadel.spiffe import TrustDomain


def backup_label(trust_domain: TrustDomain) -> KeyLabel:
    """What the seal of a backup's digest is bound to."""
    return KeyLabel(key_id="backup", purpose=KeyPurpose.BACKUP, trust_domain=trust_domain)


class BackupMaker:
    """Copies a store into a file."""

    def __init__(
        self, *, database: Database, keys: KeyShelf, sealer: Sealer, trust_domain: TrustDomain, clock: Clock
    ) -> None:
        self._database = database
        self._keys = keys
        self._sealer = sealer
        self._trust_domain = trust_domain
        self._clock = clock

    async def make(self, file: BinaryIO) -> int:
        """Write a backup into `file`; returns the number of its rows.

        What is in it had happened when this was called. Raises `Unavailable` (`store_unavailable`), and
        `FailedPrecondition` (`restore_refused`) where the store has the schema of another version. Also as `Sealer`.
        """
        label, made_at = backup_label(self._trust_domain), self._clock.now()
        await self._sealer.seal(b"", label)  # where that cannot be done it is said now, and not after all is copied
        async with _snapshot(self._database) as connection:
            # A key is there before a row names it, and goes after no row does: those of before and after the snapshot
            # together hold every key that the snapshot names.
            keys = dict(await self._keys.read(connection))
            header = Header(
                version=version("citadel"),
                schema=await _schema(connection),
                trust_domain=self._trust_domain,
                made_at=made_at,
                counters=await counters(connection),
            )
            writer = await asyncio.to_thread(BackupWriter, file, header)
            for head in heads():
                await asyncio.to_thread(writer.table, head)
                async for rows in rows_of(connection, head):
                    await asyncio.to_thread(writer.extend, rows)
            keys |= await self._keys.read(connection)
        writer.table(KEYS)
        writer.extend(list(keys.items()))
        writer.end(await self._sealer.seal(writer.digest, label))
        return writer.rows


@asynccontextmanager
async def _snapshot(database: Database) -> AsyncIterator[AsyncConnection]:
    """The store at one moment, for as long as it takes: nobody who writes waits for it."""
    try:
        async with database.engine.connect() as connection:
            await connection.execution_options(only_reads=True)
            if connection.dialect.name == "postgresql":
                await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            async with connection.begin():
                yield connection
    except (SQLAlchemyError, OSError) as error:
        raise Unavailable(
            Reason.STORE_UNAVAILABLE, "the store cannot be read, or its copy not written", fix="look at the disk"
        ) from error


async def _schema(connection: AsyncConnection) -> str:
    try:
        found = str(await connection.scalar(text("SELECT version_num FROM alembic_version")))
    except SQLAlchemyError:
        found = "none"
    if found != newest_schema():
        raise FailedPrecondition(
            Reason.RESTORE_REFUSED,
            f"the store has schema {found}, and this version of Citadel {newest_schema()}",
            fix="make the backup with the version that ran last, or start the server once",
        )
    return found
