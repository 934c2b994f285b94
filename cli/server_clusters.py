"""The clusters below this server, wired onto its parts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from ca.agents.roster import AgentRoster
from ca.api.clusters import ClustersService
from ca.authority.jwt import JwtAuthorities
from ca.authority.manager import AuthorityManager
from ca.clusters.beyond import Children
from ca.clusters.callers import ChildCallers
from ca.clusters.in_force import InForce
from ca.clusters.keeping import Keeping
from ca.clusters.knowing import Knowing
from ca.clusters.records import ChildRecords
from ca.clusters.recovering import Recovering
from ca.clusters.sessions import ChildBook
from ca.clusters.signing import DownstreamSigner
from ca.entries.directory import EntryDirectory
from ca.rotation.mesh import Mesh
from ca.rotation.ports import Beyond
from ca.settings import ServerSettings
from ca.store.clusters import SqlChildren
from ca.store.database import Database
from ca.store.revocations import SqlIssuedCertificates
from citadel.clock import Clock
from citadel.limiter import RateLimiter
from citadel.tally import Tally
from cli.server_revocation import RevocationAffairs


@dataclass(frozen=True, kw_only=True)
class ChildKeeping:
    """What there is before the authorities are: they bring in what children said."""

    book: ChildBook
    records: ChildRecords


def child_keeping(
    settings: ServerSettings,
    *,
    database: Database,
    jwt: JwtAuthorities,
    roots: Callable[[], Collection[bytes]],
    clock: Clock,
) -> ChildKeeping:
    """The parts, not yet started. `roots`, the key ids of what is trusted, are asked for only once they are."""
    book = ChildBook()
    records = ChildRecords(
        trust_domain=settings.trust_domain,
        store=SqlChildren(database=database),
        own_keys=lambda: (*jwt.published(), *jwt.withdrawn()),
        roots=roots,
        is_connected=lambda child: child in book.connected(),
        longest=settings.authorities.issuer_lifetime,
        clock=clock,
    )
    return ChildKeeping(book=book, records=records)


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What there is around them."""

    database: Database
    authorities: AuthorityManager
    directory: EntryDirectory
    roster: AgentRoster
    revocation: RevocationAffairs
    tally: Tally
    clock: Clock


@dataclass(frozen=True, kw_only=True)
class ClusterAffairs:
    """What serves child clusters, and what a rotation asks about them."""

    book: ChildBook
    records: ChildRecords
    children: Children
    in_force: InForce
    callers: ChildCallers
    keeping: Keeping
    around: Surroundings


def cluster_affairs(kept: ChildKeeping, around: Surroundings) -> ClusterAffairs:
    """The parts, not yet started."""
    authorities, lists, clock = around.authorities, around.revocation.lists, around.clock
    entries = around.directory.downstream
    in_force = InForce(authorities=authorities, lists=lists)
    for watch in (in_force.watch, entries.watch, around.revocation.bars.watch):
        watch(kept.book.wake_all)
    return ClusterAffairs(
        book=kept.book,
        records=kept.records,
        children=Children(
            book=kept.book, records=kept.records, in_force=in_force, authorities=authorities.authorities, clock=clock
        ),
        in_force=in_force,
        callers=ChildCallers(
            authorities=authorities,
            entries=entries,
            bars=around.revocation.bars,
            revoked=lists,
            ledger=SqlIssuedCertificates(database=around.database),
            roster=around.roster,
            clock=clock,
        ),
        keeping=Keeping(
            records=kept.records,
            book=kept.book,
            entries=entries,
            recovering=Recovering(
                trust_domain=authorities.bundle().trust_domain,
                records=kept.records,
                roots=lambda: authorities.own_roots().x509_authorities,
                clock=clock,
            ),
            settle=authorities.settle_anew,
            tally=around.tally,
            clock=clock,
        ),
        around=around,
    )


def knowing_of(affairs: ClusterAffairs, *, mesh: Callable[[], Mesh], skipped: Callable[[], Collection[str]]) -> Knowing:
    """Who knows what is in force; `skipped` are those whom the rotation that runs goes on without."""
    around = affairs.around
    knowing = Knowing(
        mesh=mesh, in_force=affairs.in_force, authorities=around.authorities, skipped=skipped, clock=around.clock
    )
    knowing.watch(affairs.book.wake_all)
    return knowing


async def run_clusters(affairs: ClusterAffairs, knowing: Knowing) -> None:
    """Their background work, for ever."""
    async with asyncio.TaskGroup() as work:
        work.create_task(affairs.keeping.run())
        work.create_task(knowing.run())


def clusters_service(
    settings: ServerSettings, affairs: ClusterAffairs, knowing: Knowing, above: Sequence[Beyond] = ()
) -> ClustersService:
    """`citadel.v1.Clusters`; `above` are the clusters beside this one, where it has a parent."""
    authorities, clock = affairs.around.authorities, affairs.around.clock
    signer = DownstreamSigner(
        trust_domain=settings.trust_domain,
        callers=affairs.callers,
        authorities=authorities,
        records=affairs.records,
        limiter=RateLimiter(clock=clock, per_second=settings.limits.joins_per_second),
        longest=settings.authorities.issuer_lifetime,
        clock=clock,
    )
    return ClustersService(
        callers=affairs.callers,
        signer=signer,
        book=affairs.book,
        keeping=affairs.keeping,
        in_force=affairs.in_force,
        knowing=knowing,
        above=above,
        clock=clock,
    )
