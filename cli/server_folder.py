"""An issuing authority that lies in a folder, wired."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from cryptography import x509

from ca.authority.manager import AuthorityManager
from ca.authority.ports import AuthorityStore, KeyManager
from ca.authority.vouching import Vouching
from ca.store.audit import SqlAuditLog
from ca.store.database import Database
from ca.upstream.condition import UpstreamCondition
from ca.upstream.files.authority import FilesUpstream
from ca.upstream.files.folder import read_folder
from ca.upstream.files.keeper import FolderKeeper
from ca.upstream.files.offer import Offer, offer_of
from ca.upstream.roots import ListedRoots
from ca.upstream.settings import FilesSettings
from citadel.clock import Clock
from citadel.spiffe import TrustDomain


class FolderAffairs:
    """The folder as an upstream, and what keeps an eye on it once there are authorities to follow it."""

    def __init__(
        self,
        settings: FilesSettings,
        *,
        trust_domain: TrustDomain,
        keys: KeyManager,
        store: AuthorityStore,
        vouching: Vouching,
        database: Database,
        clock: Clock,
    ) -> None:
        # Nobody else needs the watcher, which brings a library along.
        from ca.upstream.files.watching import FolderChanges  # noqa: PLC0415

        def read(trusted: Collection[x509.Certificate]) -> Offer:
            return read_authority(settings, trust_domain=trust_domain, clock=clock, trusted=trusted)

        self.authority = FilesUpstream(
            folder=settings.folder,
            read=read,
            keys=keys,
            store=store,
            roots=ListedRoots(store=store, keys=keys, vouching=vouching, clock=clock),
            clock=clock,
            alone=settings.alone,
        )
        self._changes = FolderChanges(settings.folder, again=settings.poll, clock=clock)
        self._acts = SqlAuditLog(database=database)
        self._poll = settings.poll
        self._clock = clock
        self._keeper: FolderKeeper | None = None

    async def run(self, authorities: AuthorityManager) -> None:
        """Look at the folder, for ever."""
        self._keeper = FolderKeeper(
            upstream=self.authority,
            authorities=authorities,
            changes=self._changes,
            acts=self._acts,
            poll=self._poll,
            clock=self._clock,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(self._changes.run())
            group.create_task(self._keeper.run())

    def condition(self) -> UpstreamCondition:
        """How it is with the folder."""
        return self._keeper.condition() if self._keeper is not None else UpstreamCondition(kind="files")


def read_authority(
    settings: FilesSettings, *, trust_domain: TrustDomain, clock: Clock, trusted: Collection[x509.Certificate] = ()
) -> Offer:
    """What the folder offers. Raises `FailedPrecondition` (`upstream_invalid`); blocks."""
    return offer_of(read_folder(settings.folder), trust_domain=trust_domain, now=clock.now(), trusted=trusted)
