"""Where the server's issuing authority comes from, wired: from a root of its own, a folder, a parent, or Vault."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from cryptography import x509

from ca.authority.manager import AuthorityManager
from ca.authority.model import Authority, active_of
from ca.authority.ports import KeyManager, Neighbours, UpstreamAuthority
from ca.authority.self_signed import SelfSignedUpstream
from ca.authority.vouching import Vouching
from ca.clusters.knowing import Knowing
from ca.clusters.records import ChildRecords
from ca.revocation.lists import RevocationLists
from ca.rotation.ports import Beyond
from ca.rotation.rotator import Rotator
from ca.settings import ServerSettings
from ca.store.authorities import SqlAuthorityStore
from ca.store.database import Database
from ca.store.parent_trust import SqlParentTrust
from ca.store.successions import SqlSuccessions
from ca.upstream.citadel.authority import ParentAuthority
from ca.upstream.citadel.below import PassedOn
from ca.upstream.citadel.identity import ParentIdentities
from ca.upstream.citadel.neighbour import ParentBeyond, ParentNeighbour
from ca.upstream.citadel.parent import Parent, ParentPace
from ca.upstream.citadel.reporting import LateReporting, Reporting
from ca.upstream.condition import UpstreamCondition
from ca.upstream.neighbours import StrangersUnderTheRoot
from ca.upstream.settings import ParentSettings
from ca.vault.ports import Vault
from citadel.clock import Clock
from cli.server_clusters import ClusterAffairs
from cli.server_folder import FolderAffairs
from cli.server_vault_pki import VaultPkiAffairs

Work = Coroutine[Any, Any, None]


@dataclass(frozen=True, kw_only=True)
class ParentAffairs:
    """What speaks to a parent, and what is told to it."""

    authority: ParentAuthority
    parent: Parent
    reports: LateReporting

    async def run(self) -> None:
        """Follow the parent, for ever."""
        await self.parent.run(self.reports)

    def beyond(self, authorities: AuthorityManager, lists: RevocationLists, children: ChildRecords) -> ParentBeyond:
        """The parent as one for whom rotations wait, here and in the clusters of `children`."""
        return ParentBeyond(
            authority=self.authority,
            parent=self.parent,
            own_lists=lambda: [each for each in (*lists.own, *(children.lists() or ())) if not each.is_of_root],
            own_keys=lambda: {**children.jwt_keys(), **authorities.jwt.published()},
        )

    def condition(self, issuers: Callable[[], Sequence[Authority]]) -> UpstreamCondition:
        """How it is with the parent; nothing is issued after the end of what signs."""
        parent = self.parent
        signing = active_of(issuers())
        return UpstreamCondition(
            kind="citadel",
            source=str(parent.address),
            trouble=parent.trouble() or self.authority.requests.refusal,
            since=parent.since,
            lasts_until=signing.not_after if signing is not None else None,
        )


@dataclass(frozen=True, kw_only=True)
class UpstreamAffairs:
    """The upstream; where that is another process or person, `condition` says how it is with it."""

    authority: UpstreamAuthority
    neighbours: Sequence[Neighbours] = ()
    parent: ParentAffairs | None = None
    folder: FolderAffairs | None = None
    vault: VaultPkiAffairs | None = None
    work: Sequence[Callable[[], Work]] = ()  # runs from before the authorities start

    async def start(
        self, authorities: AuthorityManager, running: Callable[[Work], Awaitable[asyncio.Task[None]]]
    ) -> Sequence[asyncio.Task[None]]:
        """Start the authorities, while the work of the upstream is `running`; where that ends, so does this."""
        work = [await running(each()) for each in self.work]
        starting = asyncio.create_task(authorities.start())
        try:
            await asyncio.wait({starting, *work}, return_when=asyncio.FIRST_COMPLETED)
            for each in (starting, *work):
                if each.done():
                    each.result()
        finally:
            starting.cancel()
            await asyncio.wait({starting})
        if self.parent is not None:
            await self.parent.authority.settle_by(authorities)
        if self.vault is not None:
            self.vault.authority.follow(authorities.issuers)
        return work

    def beyond(self, authorities: AuthorityManager, lists: RevocationLists, children: ChildRecords) -> Sequence[Beyond]:
        """Whom rotations wait for above, here and in the clusters of `children`."""
        return (self.parent.beyond(authorities, lists, children),) if self.parent is not None else ()

    async def tell(
        self,
        authorities: AuthorityManager,
        lists: RevocationLists,
        *,
        rotator: Rotator,
        clusters: ClusterAffairs,
        knowing: Knowing,
    ) -> None:
        """Tell a parent, where there is one, how it is here, or follow a folder or Vault, for ever."""
        if self.folder is not None:
            await self.folder.run(authorities)
        if self.vault is not None:
            await self.vault.run(authorities)
        if self.parent is not None:
            reporting = Reporting(
                authority=self.parent.authority,
                manager=authorities,
                lists=lists,
                knowing=knowing,
                running=lambda: rotator.running,
                below=PassedOn(
                    records=clusters.records,
                    views=clusters.children.clusters,
                    is_connected=lambda child: child in clusters.book.connected(),
                ),
            )
            self.parent.authority.watch(clusters.book.wake_all)
            reports = self.parent.reports
            for watch in (authorities.watch, lists.watch, knowing.watch, clusters.book.watch):
                watch(reports.news)
            reports.begin(reporting)
        with knowing.asked() if self.parent is not None else nullcontext():
            await asyncio.Event().wait()

    def condition(self, issuers: Callable[[], Sequence[Authority]]) -> UpstreamCondition:
        """How it is; `issuers` are the issuing authorities on record."""
        if self.folder is not None:
            return self.folder.condition()
        if self.vault is not None:
            return self.vault.condition()
        return self.parent.condition(issuers) if self.parent is not None else UpstreamCondition(kind="self")


def upstream_affairs(
    settings: ServerSettings,
    *,
    database: Database,
    keys: KeyManager,
    vault: Vault | None,
    withdrawn: Callable[[], Collection[str]],
    has_below: Callable[[x509.Certificate], bool],
    on_wait: Callable[[str], None],
    clock: Clock,
) -> UpstreamAffairs:
    """The one that the settings name, not yet started. `on_wait` is told why its start waits.

    `withdrawn` are the ids of keys for tokens that no parent may bring back; `has_below` tells whether a child has an
    authority under a root.
    """
    store = SqlAuthorityStore(database=database, trust_domain=settings.trust_domain)
    if settings.upstream.citadel is not None:
        return _from_parent(settings, settings.upstream.citadel, store, database, keys, withdrawn, on_wait, clock)
    vouching, files = _vouching(settings, database, keys, clock), settings.upstream.files
    if files is not None:
        folder = FolderAffairs(
            files,
            trust_domain=settings.trust_domain,
            keys=keys,
            store=store,
            vouching=vouching,
            database=database,
            clock=clock,
        )
        neighbours = (StrangersUnderTheRoot(alone=files.alone),)
        return UpstreamAffairs(authority=folder.authority, neighbours=neighbours, folder=folder)
    if settings.upstream.vault is not None and vault is not None:
        pki = VaultPkiAffairs(
            settings,
            settings.upstream.vault,
            vault=vault,
            keys=keys,
            store=store,
            vouching=vouching,
            database=database,
            has_below=has_below,
            on_wait=on_wait,
            clock=clock,
        )
        neighbours = (StrangersUnderTheRoot(alone=settings.upstream.vault.alone),)
        return UpstreamAffairs(authority=pki.authority, neighbours=neighbours, vault=pki)
    return UpstreamAffairs(
        authority=SelfSignedUpstream(
            trust_domain=settings.trust_domain,
            keys=keys,
            store=store,
            vouching=vouching,
            clock=clock,
            root_lifetime=settings.authorities.root_lifetime,
            backdate=settings.svids.backdate,
        )
    )


def _from_parent(
    settings: ServerSettings,
    named: ParentSettings,
    store: SqlAuthorityStore,
    database: Database,
    keys: KeyManager,
    withdrawn: Callable[[], Collection[str]],
    on_wait: Callable[[str], None],
    clock: Clock,
) -> UpstreamAffairs:
    pace, domain = ParentPace(), settings.trust_domain
    authority = ParentAuthority(
        trust_domain=domain,
        keys=keys,
        store=store,
        kept=SqlParentTrust(database=database, trust_domain=domain),
        on_wait=on_wait,
        clock=clock,
    )
    parent = Parent(
        address=named.address,
        identities=ParentIdentities(trust_domain=domain, workload_api=named.workload_api, pace=pace, clock=clock),
        take=authority.take,
        known_roots=authority.known_roots,
        pace=pace,
        clock=clock,
    )
    authority.ask(parent)
    affairs = ParentAffairs(authority=authority, parent=parent, reports=LateReporting())
    neighbour = ParentNeighbour(authority, withdrawn=withdrawn)
    return UpstreamAffairs(authority=authority, neighbours=(neighbour,), parent=affairs, work=(affairs.run,))


def _vouching(settings: ServerSettings, database: Database, keys: KeyManager, clock: Clock) -> Vouching:
    return Vouching(
        trust_domain=settings.trust_domain,
        keys=keys,
        store=SqlSuccessions(database=database, trust_domain=settings.trust_domain),
        clock=clock,
        # An agent may come back for as long as this after its last certificate, which one that was skipped has still.
        lasts=settings.svids.agent_lifetime + settings.joining.rejoin_grace,
    )
