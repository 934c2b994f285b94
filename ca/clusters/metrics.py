"""What the server measures of the clusters below it. Labels are bounded: no cluster is named."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ca.clusters.beyond import Children


class ClusterCollector(Collector):
    """Reads how many there are, and how many have not acknowledged what is in force, at each scrape."""

    def __init__(self, children: Children) -> None:
        self._children = children

    def collect(self) -> Iterator[Metric]:
        clusters = GaugeMetricFamily(
            "citadel_child_clusters",
            "Child clusters that are connected, or away with an issuing authority that has not ended.",
            labels=["state"],
        )
        for state, number in zip(("connected", "away"), self._children.counts(), strict=True):
            clusters.add_metric([state], number)
        yield clusters
        behind = GaugeMetricFamily(
            "citadel_child_clusters_behind",
            "Child clusters that have not acknowledged this half of the bundle as it is in force.",
            labels=["half"],
        )
        for half, is_jwt in (("x509", False), ("jwt", True)):
            behind.add_metric([half], len(self._children.without(is_jwt=is_jwt)))
        yield behind
