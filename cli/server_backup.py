"""Backup and restore, wired: beside a server that runs, and without one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from ca.api.backup import BackupService
from ca.api.listeners import ActorOf
from ca.audit.model import Actor
from ca.backup.keys import FolderShelf, KeyShelf, TableShelf
from ca.backup.making import BackupMaker
from ca.backup.reading import Summary, inspect
from ca.backup.restoring import Restored, Restorer
from ca.keys.manager import Sealer
from ca.lease.identity import holder_of
from ca.settings import ServerSettings
from ca.store.database import Database
from citadel.clock import Clock
from citadel.config.files import ensure_private_dir
from citadel.folder_lock import folder_lock
from cli.server_keys import sealer_of
from cli.server_vault import running_vault


def backup_service(
    settings: ServerSettings, *, database: Database, sealer: Sealer, actor_of: ActorOf, clock: Clock
) -> BackupService:
    """The service of a server that runs."""
    return BackupService(
        maker=_maker(settings, database, sealer, clock),
        database=database,
        folder=settings.data_dir,
        actor_of=actor_of,
        clock=clock,
    )


async def backup_offline(settings: ServerSettings, file: BinaryIO, *, clock: Clock) -> int:
    """A backup of a server that does not run; returns the number of rows."""
    async with _stopped_server(settings) as database, _sealer(settings, clock) as sealer:
        return await _maker(settings, database, sealer, clock).make(file)


async def inspect_backup(settings: ServerSettings, path: Path, *, clock: Clock) -> Summary:
    """What a backup says of itself, checked against what seals this server's keys. Raises as `inspect`."""
    async with _sealer(settings, clock) as sealer:
        return await inspect(path, sealer=sealer, trust_domain=settings.trust_domain)


async def restore_backup(
    settings: ServerSettings, path: Path, summary: Summary, *, replace: bool, clock: Clock
) -> Restored:
    """Put a backup into the store of a server that does not run. Raises as `Restorer.restore`."""
    async with _stopped_server(settings) as database:
        restorer = Restorer(
            database=database,
            keys=_shelf(settings),
            folder=settings.data_dir,
            holder=holder_of(settings.data_dir, address=settings.advertise.agents or settings.listen.agents),
            clock=clock,
        )
        return await restorer.restore(path, summary, by=Actor.local(os.getuid()), replace=replace)


@asynccontextmanager
async def _stopped_server(settings: ServerSettings) -> AsyncIterator[Database]:
    """The store, for as long as no server runs on this data_dir. Raises `data_dir_in_use` where one does."""
    ensure_private_dir(settings.data_dir)
    with folder_lock(settings.data_dir):
        database = Database.open(settings.database_url)
        try:
            yield database
        finally:
            await database.close()


def _maker(settings: ServerSettings, database: Database, sealer: Sealer, clock: Clock) -> BackupMaker:
    return BackupMaker(
        database=database,
        keys=_shelf(settings),
        sealer=sealer,
        trust_domain=settings.trust_domain,
        clock=clock,
    )


def _shelf(settings: ServerSettings) -> KeyShelf:
    return TableShelf() if settings.keys_in_database else FolderShelf(settings.data_dir / "keys")


@asynccontextmanager
async def _sealer(settings: ServerSettings, clock: Clock) -> AsyncIterator[Sealer]:
    """What seals, with a session of its own where that is in Vault: a person waits, so Vault is not waited for."""
    async with running_vault(settings, clock) as vault:
        yield sealer_of(settings, vault.vault if vault is not None else None)
