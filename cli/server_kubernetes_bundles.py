"""The trust bundle kept in clusters of Kubernetes, wired."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from ca.kubernetes.bundles.contents import OwnBundle
from ca.kubernetes.bundles.keeping import BundleKeeping
from ca.kubernetes.bundles.metrics import BundleCollector
from citadel.clock import Clock
from cli.server_kubernetes import KubernetesAffairs


def hang_bundles(kubernetes: KubernetesAffairs, *, own: OwnBundle, metrics: CollectorRegistry, clock: Clock) -> None:
    """Keep it where the settings say, and have rotations wait for that."""
    kept: dict[str, BundleKeeping] = {}
    for name, cluster in kubernetes.clusters.items():
        if (settings := cluster.settings.bundles) is None:
            continue
        keeping = kept[name] = BundleKeeping(cluster.api, settings, own, cluster=name, clock=clock)
        cluster.work["the trust bundle"] = keeping.run
        kubernetes.beyond.append(keeping)
        cluster.notes.append(keeping.notes)
        for each in keeping.bases():
            cluster.tell_of(each, clock=clock)
    metrics.register(BundleCollector(kept))
