"""What is measured of bundles in clusters. Labels are bounded: clusters and ConfigMaps of the settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ca.kubernetes.bundles.keeping import BundleKeeping


class BundleCollector(Collector):
    """Reads at each scrape how it is with the ConfigMaps; the names are the same where there are none."""

    def __init__(self, kept: Mapping[str, BundleKeeping]) -> None:
        self._kept = kept

    def collect(self) -> Iterator[Metric]:
        found = GaugeMetricFamily(
            "citadel_kubernetes_config_maps",
            "ConfigMaps that hold the trust bundle in force (right), do not yet (behind), or cannot be kept (failing).",
            labels=["cluster", "name", "state"],
        )
        for cluster, keeping in self._kept.items():
            for each in keeping.standings():
                failing = len(each.failing)
                found.add_metric([cluster, each.name, "right"], each.right)
                found.add_metric([cluster, each.name, "behind"], max(0, each.meant - each.right - failing))
                found.add_metric([cluster, each.name, "failing"], failing)
        yield found
