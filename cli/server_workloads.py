"""Identities by template, wired: what keeps the entries of each cluster's pods, and who is told how it is with them."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

import structlog

from ca.entries.directory import EntryDirectory
from ca.entries.registry import EntryRegistry
from ca.kubernetes.following import Basis
from ca.kubernetes.settings import WorkloadSettings
from ca.kubernetes.workloads.abandoned import remove_abandoned
from ca.kubernetes.workloads.reconciler import WorkloadReconciler
from ca.kubernetes.workloads.rules import PodRules
from ca.kubernetes.workloads.services import SERVICES, Services, service_of
from citadel.clock import Clock
from citadel.errors import CitadelError
from citadel.kubernetes.informer import Informer
from citadel.spiffe import TrustDomain
from cli.server_kubernetes import Cluster, KubernetesAffairs

_AGAIN_SECONDS: Final = 30.0

_log = structlog.get_logger(__name__)


def hang_workloads(
    kubernetes: KubernetesAffairs,
    *,
    trust_domain: TrustDomain,
    directory: EntryDirectory,
    registry: EntryRegistry,
    clock: Clock,
) -> None:
    """Keep entries for the pods of each cluster whose settings ask for it, and remove those of the others."""
    for cluster in kubernetes.clusters.values():
        if (settings := cluster.settings.workloads) is None:
            continue
        services = _services(cluster, settings, clock)
        if services is not None:
            cluster.work["its services"] = services.run
            cluster.tell_of(Basis("its services, which pods wait for,", "services", services), clock=clock)
        reconciler = WorkloadReconciler(
            cluster=cluster.name,
            rules=PodRules(settings, trust_domain=trust_domain, cluster=cluster.name),
            pods=cluster.pods,
            services=services,
            directory=directory,
            registry=registry,
            clock=clock,
        )
        cluster.work["identities of pods"] = reconciler.run
        kubernetes.workloads[cluster.name] = reconciler.condition
    kept = frozenset(kubernetes.workloads)
    kubernetes.work["entries of clusters that are no more"] = partial(_tidy, directory, registry, kept, clock)


def _services(cluster: Cluster, settings: WorkloadSettings, clock: Clock) -> Services | None:
    if not settings.service_dns_names:
        return None
    return Services(Informer(cluster.api, SERVICES, keep=service_of, clock=clock))


async def _tidy(directory: EntryDirectory, registry: EntryRegistry, kept: frozenset[str], clock: Clock) -> None:
    while True:
        try:
            await remove_abandoned(directory, registry, kept=kept)
            break
        except CitadelError as error:  # the store
            _log.warning("entries of clusters that are no more wait", reason=error.reason, error=str(error))
            await clock.sleep(_AGAIN_SECONDS)
    await asyncio.Event().wait()  # work of this kind goes on
