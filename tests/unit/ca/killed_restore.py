"""A restore that ends itself with SIGKILL: `python -m tests.unit.ca.killed_restore BACKUP STORE_URL KEYS WHERE`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection

from ca.audit.model import Actor
from ca.backup.keys import FolderShelf
from ca.backup.reading import inspect
from ca.backup.restoring import Restorer
from ca.keys.sealing import KekSealer
from ca.lease.model import Holder
from ca.store.database import Database
from citadel.clock import SystemClock
from tests.unit.ca.values import A_TEST


class KillingShelf(FolderShelf):
    """Ends the process in the middle of the transaction, with all rows written, or just after its commit."""

    def __init__(self, folder: Path, *, where: str) -> None:
        super().__init__(folder)
        self._where = where

    async def add(self, connection: AsyncConnection, keys: Mapping[str, bytes]) -> None:
        await super().add(connection, keys)
        self._kill_at("before the commit")

    async def keep_only(self, keys: Mapping[str, bytes]) -> None:
        self._kill_at("after the commit")
        await super().keep_only(keys)

    def _kill_at(self, where: str) -> None:
        if where == self._where:
            os.kill(os.getpid(), signal.SIGKILL)


async def main(backup: Path, store_url: str, keys: Path, where: str) -> None:
    """Restore, and do not survive it."""
    restorer = Restorer(
        database=Database.open(store_url),
        keys=KillingShelf(keys, where=where),
        folder=backup.parent,
        holder=Holder(id="here", name="here"),
        clock=SystemClock(),
    )
    summary = await inspect(backup, sealer=KekSealer(b"k" * 32), trust_domain=A_TEST)
    await restorer.restore(backup, summary, by=Actor.local(0), replace=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4]))
