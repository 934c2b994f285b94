"""What watches and explains the server, wired onto its core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from ca.api.insight import InsightService
from ca.api.listeners import ActorOf, Watch
from ca.clusters.condition import clusters_check
from ca.clusters.metrics import ClusterCollector
from ca.insight.condition import ServerCondition
from ca.insight.gather import IdentityGatherer
from ca.insight.minting import Minter
from ca.kubernetes.metrics import KubernetesCollector
from ca.metrics import ServerCollector
from ca.rotation_metrics import RotationCollector
from ca.store.audit import SqlAuditLog
from ca.store.insight import SqlIdentityRecords
from ca.upstream.metrics import UpstreamCollector
from citadel.health import HealthBoard
from citadel.metrics import CallMeter, RefusalCollector
from citadel.probes import Check, Health
from cli.server_core import ServerCore
from cli.server_vault import vault_collector


def server_condition(core: ServerCore, *further: Callable[[], Check]) -> ServerCondition:
    """What `/ready` and health say; `further` are checks of what is not in the core."""
    return ServerCondition(
        authorities=core.authorities,
        roster=core.roster,
        sessions=core.sessions,
        clock=core.clock,
        further=(
            core.database.health.check,
            core.rotation.clock_check,
            lambda: core.upstream_condition().check(core.clock.now()),
            *_vault_checks(core),
            core.rotation.rotation_check,
            core.revocation.check,
            *_kubernetes_checks(core),
            lambda: clusters_check(core.clusters.children, core.clusters.records, core.clusters.keeping.twins),
            *further,
        ),
    )


def _vault_checks(core: ServerCore) -> Sequence[Callable[[], Check]]:
    def keys() -> Check:
        found = core.keys_condition()
        return found.check(core.clock.now()) if found is not None else Check("keys", Health.GOOD, "sealed")

    return () if core.vault is None else (core.vault.check, keys)


def _kubernetes_checks(core: ServerCore) -> Sequence[Callable[[], Check]]:
    return [partial(core.kubernetes.check, name) for name in core.kubernetes.clusters]


def server_watch(core: ServerCore, condition: ServerCondition, *, services: tuple[str, ...]) -> Watch:
    """The meter and the health of every listener; what is read at each scrape is registered too. Call it once."""
    core.metrics.register(
        ServerCollector(
            authorities=core.authorities,
            lists=core.revocation.lists,
            roster=core.roster,
            directory=core.directory,
            sessions=core.sessions,
        )
    )
    core.metrics.register(
        RotationCollector(
            rotator=core.rotation.rotator,
            authorities=core.authorities.authorities,
            jwt_authorities=core.authorities.jwt.authorities,
            clock=core.clock,
        )
    )
    core.metrics.register(RefusalCollector(core.tally))
    core.metrics.register(UpstreamCollector(core.upstream_condition))
    core.metrics.register(vault_collector(core.vault))
    core.metrics.register(KubernetesCollector(core.kubernetes.conditions))
    core.metrics.register(ClusterCollector(core.clusters.children))
    return Watch(
        meter=CallMeter(core.metrics, clock=core.clock),
        health=HealthBoard(condition.readiness, services=services, clock=core.clock),
    )


def insight_service(core: ServerCore, actor_of: ActorOf) -> InsightService:
    """`citadel.v1.Insight`."""
    trust_domain = core.authorities.bundle().trust_domain
    gatherer = IdentityGatherer(
        trust_domain=trust_domain,
        directory=core.directory,
        roster=core.roster,
        sessions=core.sessions,
        records=SqlIdentityRecords(database=core.database),
        knows_bundle=lambda domain: core.federation.bundles.get(domain) is not None,
        clock=core.clock,
    )
    minter = Minter(
        trust_domain=trust_domain, issuer=core.issuer, acts=SqlAuditLog(database=core.database), clock=core.clock
    )
    return InsightService(
        sessions=core.sessions,
        gatherer=gatherer,
        minter=minter,
        authorities=core.authorities,
        actor_of=actor_of,
    )
