"""`citadel.v1.Backup`: a copy of all that the server keeps. Served on the local socket only, as all administration."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from ca.api.listeners import ActorOf
from ca.audit.model import Act
from ca.backup.making import BackupMaker
from ca.store.audit import record_act
from ca.store.database import Database
from citadel._wire import backup_pb2 as pb
from citadel._wire import backup_pb2_grpc
from citadel.clock import Clock

_PART: Final = 256 * 1024


class BackupService(backup_pb2_grpc.BackupServicer):
    """Makes one backup at a time. It lies on the disk while it is sent: a slow reader keeps no snapshot open."""

    def __init__(
        self, *, maker: BackupMaker, database: Database, folder: Path, actor_of: ActorOf, clock: Clock
    ) -> None:
        self._maker = maker
        self._database = database
        self._folder = folder
        self._actor_of = actor_of
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()

    async def MakeBackup(self, request: pb.MakeBackupRequest, context: Any) -> AsyncIterator[pb.BackupPart]:
        by = self._actor_of(context)
        # It has no name: however this process ends, nothing of it stays.
        with tempfile.TemporaryFile(dir=self._folder) as file:
            async with self._one_at_a_time:
                rows = await self._maker.make(file)
            async with self._database.transaction() as connection:
                act = Act(actor=by, what="backup.make", detail=f"{rows} rows")
                await record_act(connection, act, at=self._clock.now())
            file.seek(0)
            while data := await asyncio.to_thread(file.read, _PART):
                yield pb.BackupPart(data=data)
