"""What the server's services are made of, wired: store, authorities, entries, agents, issuer, and their work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from ca.agents.roster import AgentRoster
from ca.api.server_identity import ServerIdentity
from ca.api.sessions import SessionBook
from ca.authority.manager import AuthorityManager
from ca.authority.own_bundle import OwnBundle
from ca.authority.ports import Neighbours, UpstreamAuthority
from ca.clusters.knowing import Knowing
from ca.entries.directory import EntryDirectory
from ca.entries.registry import EntryRegistry
from ca.federation.exchanged import ExchangedRoots
from ca.issuance.issuer import Issuer
from ca.issuance.jwt import JwtIssuer
from ca.issuance.lifetime import LifetimePolicy
from ca.issuance.quota import Quota
from ca.keys.split import SplitKeyManager
from ca.keys.transit.condition import KeysCondition
from ca.metrics import MeteredLedger
from ca.revocation.lists import RevocationLists
from ca.revocation.revoker import Revoker
from ca.rotation.mesh import Mesh
from ca.settings import ServerSettings
from ca.store.agents import SqlAgentStore
from ca.store.audit import SqlAuditLog
from ca.store.authorities import SqlAuthorityStore
from ca.store.database import Database
from ca.store.entries import SqlEntryStore
from ca.store.ledger import SqlLedger
from ca.store.restores import LedgerGap, ledger_gaps
from ca.store.rotations import SqlIssuedEnds
from ca.upstream.condition import UpstreamCondition
from citadel.clock import Clock
from citadel.metrics import new_registry
from citadel.tally import Tally
from cli.server_agents import AgentAffairs, agent_affairs
from cli.server_clusters import (
    ClusterAffairs,
    Surroundings,
    child_keeping,
    cluster_affairs,
    knowing_of,
    run_clusters,
)
from cli.server_federation import FederationAffairs, exchanged_roots, federation_affairs
from cli.server_jwt import jwt_authorities, jwt_issuer
from cli.server_keys import ServerKeys, ready_keys
from cli.server_kubernetes import KubernetesAffairs, kubernetes_affairs
from cli.server_kubernetes_parts import KubernetesSurroundings, hang_into
from cli.server_records import RecordKeeping
from cli.server_revocation import RevocationAffairs, revocation_affairs, revoker
from cli.server_rotation import RotationAffairs, asking_clients, rotation_affairs
from cli.server_starting import StartSeen
from cli.server_upstream import UpstreamAffairs, upstream_affairs
from cli.server_vault import VaultAffairs, running_vault

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class ServerCore:
    """What the services are made of."""

    clock: Clock
    tally: Tally
    metrics: CollectorRegistry
    database: Database
    authorities: AuthorityManager
    identity: ServerIdentity
    roster: AgentRoster
    directory: EntryDirectory
    registry: EntryRegistry
    issuer: Issuer
    jwt_issuer: JwtIssuer
    agents: AgentAffairs
    sessions: SessionBook
    ledger_gaps: Sequence[LedgerGap]
    records: RecordKeeping
    rotation: RotationAffairs
    revocation: RevocationAffairs
    revoker: Revoker
    federation: FederationAffairs
    exchanged: ExchangedRoots
    clusters: ClusterAffairs
    knowing: Knowing
    upstream: UpstreamAffairs
    vault: VaultAffairs | None
    keys: ServerKeys
    kubernetes: KubernetesAffairs
    background: tuple[asyncio.Task[None], ...]

    def upstream_condition(self) -> UpstreamCondition:
        """How it is with where the issuing authority comes from."""
        return self.upstream.condition(self.authorities.issuers)

    def keys_condition(self) -> KeysCondition | None:
        """How it is with keys that have to do with Vault."""
        if self.vault is None or not self.keys.need_vault:
            return None
        return self.keys.condition(self.vault, self.authorities)


@asynccontextmanager
async def server_core(
    settings: ServerSettings, clock: Clock, database: Database, start: StartSeen
) -> AsyncIterator[ServerCore]:
    """The parts, started, with their background work; ended and closed in the reverse order.

    `database` is this server's to migrate and to write, and is not closed. `start` is told what the start waits for.
    """
    async with AsyncExitStack() as stack:
        kubernetes = await stack.enter_async_context(kubernetes_affairs(settings, clock))
        vault = await stack.enter_async_context(running_vault(settings, clock))
        kept = await ready_keys(settings, database=database, vault=vault, on_wait=start.waits_for, clock=clock)
        keys = kept.manager
        records = RecordKeeping(settings, database=database, keys=keys, clock=clock)
        stack.push_async_callback(records.close)
        tally = Tally(clock=clock, sink=records.trail)
        stack.push_async_callback(tally.close)  # says the sums that were not told yet
        await database.migrate()
        revocation = revocation_affairs(settings, database=database, keys=keys)
        exchanged = await exchanged_roots(database=database, clock=clock)
        children = child_keeping(settings, database=database, authorities=lambda: authorities, clock=clock)
        upstream = upstream_affairs(
            settings,
            database=database,
            keys=keys,
            vault=vault.vault if vault is not None else None,
            withdrawn=lambda: authorities.jwt.withdrawn() | children.records.withdrawn_jwt_keys(),
            has_below=children.records.has_below,
            on_wait=start.waits_for,
            clock=clock,
        )
        authorities = _authorities(
            settings,
            upstream.authority,
            database=database,
            keys=keys,
            lists=revocation.lists,
            clock=clock,
            # Of what two of them bring, that of the nearest counts.
            neighbours=[children.records, exchanged, *upstream.neighbours],
        )
        roster = await _roster(settings, database, clock)

        def committed(rows: int) -> None:
            records.notary.note_rows(rows)
            metered.note_commit(rows)

        ledger = SqlLedger(
            database=database,
            is_banned=roster.is_shut_out,
            is_revoked=revocation.bars.hold,
            clock=clock,
            on_commit=committed,
        )
        revoking = revoker(revocation, database=database, roster=roster, commits=ledger, clock=clock)
        await revoking.load()
        directory, registry = await _entries(settings, database, clock)
        await children.records.start(entitled=directory.downstream.identities(clock.now()))
        following = await upstream.start(authorities, lambda work: stack.enter_async_context(_running(work)))
        await records.start()
        gaps, metrics = await _ledger_gaps(database), new_registry()
        metered = MeteredLedger(ledger, registry=metrics, clock=clock)
        issuer = Issuer(
            entries=directory,
            bars=revocation.bars,
            authorities=authorities,
            ledger=metered,
            clock=clock,
            policy=LifetimePolicy(
                default=settings.svids.default_lifetime,
                own=settings.svids.agent_lifetime,
                cap=settings.svids.max_lifetime,
                backdate=settings.svids.backdate,
            ),
            quota=Quota(max_batch=settings.limits.batch, per_second=settings.limits.svids_per_second, clock=clock),
            on_signed=metered.note_signed,
        )
        stack.callback(issuer.close)
        tokens = jwt_issuer(
            settings,
            directory=directory,
            bars=revocation.bars,
            authorities=authorities.jwt,
            metrics=metrics,
            clock=clock,
        )
        stack.callback(tokens.close)
        sessions = SessionBook(most_silent=settings.limits.silent_streams, hello_timeout=settings.limits.hello_timeout)
        agents = await agent_affairs(
            settings, database=database, roster=roster, issuer=issuer, sessions=sessions, clock=clock
        )
        identity = ServerIdentity(
            issuer=issuer, authorities=authorities, clock=clock, dns_names=settings.advertise.dns_names
        )
        writing = await stack.enter_async_context(_running(ledger.run()))
        await identity.start()
        await revoking.start()
        revocation.bars.watch(sessions.wake_all)
        clusters = cluster_affairs(
            children,
            Surroundings(
                database=database,
                authorities=authorities,
                directory=directory,
                roster=roster,
                revocation=revocation,
                tally=tally,
                clock=clock,
            ),
        )
        hang_into(
            kubernetes,
            KubernetesSurroundings(
                settings=settings,
                database=database,
                authorities=authorities,
                roster=roster,
                directory=directory,
                registry=registry,
                issuer=issuer,
                sessions=sessions,
                tally=tally,
                metrics=metrics,
                clock=clock,
            ),
        )
        within = (clusters.children, *kubernetes.beyond)
        mesh = partial(
            Mesh,
            trust_domain=settings.trust_domain,
            roster=roster,
            sessions=sessions,
            ends=SqlIssuedEnds(database=database),
            asking=(asking := await asking_clients(database, authorities, clock)),
            clock=clock,
        )
        rotation = rotation_affairs(
            settings,
            database=database,
            authorities=authorities,
            identity=identity,
            mesh=mesh(beyond=(*within, *upstream.beyond(authorities, revocation.lists, clusters.records))),
            sessions=sessions,
            lists=revocation.lists,
            is_lost=keys.is_lost,
            clock=clock,
        )
        # What is above waits for what is here and below, and not the other way round.
        knowing = knowing_of(clusters, mesh=partial(mesh, beyond=within), skipped=rotation.rotator.skipped)
        await rotation.rotator.start()
        federation = await federation_affairs(
            settings,
            database=database,
            own_bundle=authorities.own_roots,
            on_change=sessions.wake_partners_of,
            tally=tally,
            metrics=metrics,
            clock=clock,
        )
        working = [
            await stack.enter_async_context(_running(work))
            for work in (
                agents.sightings.run(),
                identity.run(),
                revoking.run(),
                asking.run(),
                rotation.rotator.run(),
                rotation.upkeep.run(),
                federation.federations.run(),
                run_clusters(clusters, knowing),
                upstream.tell(
                    authorities, revocation.lists, rotator=rotation.rotator, clusters=clusters, knowing=knowing
                ),
                records.run(),
                *([kept.run(vault, authorities, clock)] if vault is not None else []),
                *kubernetes.all_work(),
            )
        ]
        yield ServerCore(
            clock=clock,
            tally=tally,
            metrics=metrics,
            database=database,
            authorities=authorities,
            identity=identity,
            roster=roster,
            directory=directory,
            registry=registry,
            issuer=issuer,
            jwt_issuer=tokens,
            agents=agents,
            sessions=sessions,
            ledger_gaps=gaps,
            records=records,
            rotation=rotation,
            revocation=revocation,
            revoker=revoking,
            federation=federation,
            exchanged=exchanged,
            clusters=clusters,
            knowing=knowing,
            background=(writing, *(vault.work if vault is not None else ()), *following, *working),
            kubernetes=kubernetes,
            upstream=upstream,
            vault=vault,
            keys=kept,
        )


async def _roster(settings: ServerSettings, database: Database, clock: Clock) -> AgentRoster:
    roster = AgentRoster(trust_domain=settings.trust_domain, store=SqlAgentStore(database=database), clock=clock)
    await roster.start()
    return roster


async def _entries(settings: ServerSettings, database: Database, clock: Clock) -> tuple[EntryDirectory, EntryRegistry]:
    directory = EntryDirectory(trust_domain=settings.trust_domain)
    registry = EntryRegistry(
        trust_domain=settings.trust_domain, store=SqlEntryStore(database=database), directory=directory, clock=clock
    )
    await registry.start()
    return directory, registry


async def _ledger_gaps(database: Database) -> Sequence[LedgerGap]:
    for gap in (gaps := await ledger_gaps(database)):
        _log.warning("ledger has a gap since a restore", begin=gap.begin.isoformat(), end=gap.end.isoformat())
    return gaps


def _authorities(
    settings: ServerSettings,
    upstream: UpstreamAuthority,
    *,
    database: Database,
    keys: SplitKeyManager,
    lists: RevocationLists,
    clock: Clock,
    neighbours: Sequence[Neighbours],
) -> AuthorityManager:
    store = SqlAuthorityStore(database=database, trust_domain=settings.trust_domain)
    tokens = jwt_authorities(settings, database=database, keys=keys, clock=clock)
    return AuthorityManager(
        own=OwnBundle(
            trust_domain=settings.trust_domain,
            store=store,
            jwt=tokens,
            neighbours=neighbours,
            refresh_hint=settings.federation.refresh_hint,
        ),
        upstream=upstream,
        keys=keys,
        store=store,
        lists=lists,
        acts=SqlAuditLog(database=database),
        clock=clock,
        issuer_lifetime=settings.authorities.issuer_lifetime,
        backdate=settings.svids.backdate,
    )


@asynccontextmanager
async def _running(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})  # the store must not close under a commit
