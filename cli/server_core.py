"""What the server's services are made of, wired stage by stage, and its background work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from ca.agents.roster import AgentRoster
from ca.api.server_identity import ServerIdentity
from ca.api.sessions import SessionBook
from ca.authority.manager import AuthorityManager
from ca.clusters.knowing import Knowing
from ca.entries.directory import EntryDirectory
from ca.entries.registry import EntryRegistry
from ca.federation.exchanged import ExchangedRoots
from ca.issuance.issuer import Issuer
from ca.issuance.jwt import JwtIssuer
from ca.keys.transit.condition import KeysCondition
from ca.revocation.revoker import Revoker
from ca.settings import ServerSettings
from ca.store.database import Database
from ca.store.restores import LedgerGap, ledger_gaps
from ca.upstream.condition import UpstreamCondition
from citadel.clock import Clock
from citadel.tally import Tally
from cli.server_agents import AgentAffairs
from cli.server_authorities import AuthorityAffairs, authority_affairs
from cli.server_clusters import ClusterAffairs, run_clusters
from cli.server_federation import FederationAffairs
from cli.server_foundation import Foundation, foundation
from cli.server_issuing import Issuing, started_issuing
from cli.server_keys import ServerKeys
from cli.server_kubernetes import KubernetesAffairs
from cli.server_mesh import MeshAffairs, mesh_affairs
from cli.server_records import RecordKeeping
from cli.server_registers import Registers, loaded_registers
from cli.server_revocation import RevocationAffairs
from cli.server_rotation import RotationAffairs
from cli.server_running import running
from cli.server_starting import StartSeen
from cli.server_upstream import UpstreamAffairs
from cli.server_vault import VaultAffairs

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

        async def keep_running(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
            return await stack.enter_async_context(running(work))

        base = await foundation(settings, clock, database, start, stack)
        trust = await authority_affairs(settings, base, start)
        registers = await loaded_registers(settings, base, trust.revocation)
        following = await trust.start(registers.directory.downstream.identities(clock.now()), keep_running)
        await base.records.start()
        gaps = await _ledger_gaps(database)
        issuing = await started_issuing(settings, base, trust, registers, stack)
        mesh = await mesh_affairs(settings, base, trust, registers, issuing)
        working = [await keep_running(work) for work in _all_work(base, trust, registers, issuing, mesh)]
        background = (issuing.writing, *(base.vault.work if base.vault is not None else ()), *following, *working)
        yield _core(base, trust, registers, issuing, mesh, gaps=gaps, background=background)


async def _ledger_gaps(database: Database) -> Sequence[LedgerGap]:
    for gap in (gaps := await ledger_gaps(database)):
        _log.warning("ledger has a gap since a restore", begin=gap.begin.isoformat(), end=gap.end.isoformat())
    return gaps


def _all_work(
    base: Foundation, trust: AuthorityAffairs, registers: Registers, issuing: Issuing, mesh: MeshAffairs
) -> Sequence[Coroutine[Any, Any, None]]:
    """What runs from now on, beside what each stage needed before; all of it goes on for ever."""
    rotator = mesh.rotation.rotator
    return (
        issuing.agents.sightings.run(),
        issuing.identity.run(),
        registers.revoker.run(),
        mesh.asking.run(),
        rotator.run(),
        mesh.rotation.upkeep.run(),
        mesh.federation.federations.run(),
        run_clusters(mesh.clusters, mesh.knowing),
        trust.upstream.tell(
            trust.authorities,
            trust.revocation.lists,
            rotator=rotator,
            clusters=mesh.clusters,
            knowing=mesh.knowing,
        ),
        base.records.run(),
        *([base.keys.run(base.vault, trust.authorities, base.clock)] if base.vault is not None else []),
        *base.kubernetes.all_work(),
    )


def _core(
    base: Foundation,
    trust: AuthorityAffairs,
    registers: Registers,
    issuing: Issuing,
    mesh: MeshAffairs,
    *,
    gaps: Sequence[LedgerGap],
    background: tuple[asyncio.Task[None], ...],
) -> ServerCore:
    return ServerCore(
        clock=base.clock,
        tally=base.tally,
        metrics=base.metrics,
        database=base.database,
        authorities=trust.authorities,
        identity=issuing.identity,
        roster=registers.roster,
        directory=registers.directory,
        registry=registers.registry,
        issuer=issuing.issuer,
        jwt_issuer=issuing.jwt_issuer,
        agents=issuing.agents,
        sessions=issuing.sessions,
        ledger_gaps=gaps,
        records=base.records,
        rotation=mesh.rotation,
        revocation=trust.revocation,
        revoker=registers.revoker,
        federation=mesh.federation,
        exchanged=trust.exchanged,
        clusters=mesh.clusters,
        knowing=mesh.knowing,
        upstream=trust.upstream,
        vault=base.vault,
        keys=base.keys,
        kubernetes=base.kubernetes,
        background=background,
    )
