"""A server whose authority lies in a folder, wired as the real one is, for the harness of rotations."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ca.authority.vouching import Vouching
from ca.rotation.model import Holder
from ca.store.audit import SqlAuditLog
from ca.store.successions import SqlSuccessions
from ca.upstream.files.authority import FilesUpstream
from ca.upstream.files.folder import read_folder
from ca.upstream.files.keeper import FolderKeeper
from ca.upstream.files.offer import offer_of
from ca.upstream.neighbours import StrangersUnderTheRoot
from ca.upstream.roots import ListedRoots
from citadel._wire.rotation_pb2 import ClusterView
from tests.certificates import A_TEST
from tests.unit.ca.rotating import Disk, Fate, Server


class Nobody:
    """Fulfils `Beyond`: there are no other clusters that say anything."""

    def without(self, *, is_jwt: bool) -> Sequence[Holder]:  # noqa: ARG002 - the form of the port
        return ()

    def depending(self, old_ids: Collection[str], now: datetime) -> Sequence[Holder]:  # noqa: ARG002 - as above
        return ()

    def clusters(self) -> Sequence[ClusterView]:
        return ()


class Silence:
    """Fulfils `Changes`: nobody tells of any."""

    async def wait(self) -> None:
        await asyncio.Event().wait()


class FolderAbove:
    """The folder as one process has it; `look` is what it does now and then."""

    def __init__(self, folder: Path, disk: Disk, *, keys: Any, store: Any, alone: bool) -> None:
        self._disk = disk
        self.authority = FilesUpstream(
            folder=folder,
            read=lambda trusted: offer_of(
                read_folder(folder), trust_domain=A_TEST, now=disk.clock.now(), trusted=trusted
            ),
            keys=keys,
            store=store,
            roots=ListedRoots(
                store=store,
                keys=keys,
                vouching=Vouching(
                    trust_domain=A_TEST,
                    keys=keys,
                    store=SqlSuccessions(database=disk.database, trust_domain=A_TEST),
                    clock=disk.clock,
                    lasts=timedelta(days=7),
                ),
                clock=disk.clock,
            ),
            clock=disk.clock,
            alone=alone,
        )
        self.neighbour = StrangersUnderTheRoot(alone=alone)
        self.beyond = Nobody()
        self._keeper: FolderKeeper | None = None

    async def started(self, server: Server) -> None:
        self._keeper = FolderKeeper(
            upstream=self.authority,
            authorities=server.authorities,
            changes=Silence(),
            acts=SqlAuditLog(database=self._disk.database),
            poll=timedelta(seconds=30),
            clock=self._disk.clock,
        )

    @property
    def keeper(self) -> FolderKeeper:
        assert self._keeper is not None
        return self._keeper


@dataclass
class FromFolder:
    """A folder on a disk; fulfils what the harness asks of an upstream."""

    folder: Path
    alone: bool = False
    processes: list[FolderAbove] = field(default_factory=list)

    def above(self, disk: Disk, fate: Fate, *, keys: Any, store: Any) -> FolderAbove:  # noqa: ARG002 - it comes with these
        self.processes.append(FolderAbove(self.folder, disk, keys=keys, store=store, alone=self.alone))
        return self.processes[-1]

    @property
    def keeper(self) -> FolderKeeper:
        """That of the process that runs."""
        return self.processes[-1].keeper

    async def look(self) -> None:
        await self.keeper.look()
