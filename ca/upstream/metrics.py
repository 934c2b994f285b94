"""What the server measures of where its issuing authority comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ca.upstream.condition import UpstreamCondition


class UpstreamCollector(Collector):
    """Reads how it is with the upstream at each scrape."""

    def __init__(self, condition: Callable[[], UpstreamCondition]) -> None:
        self._condition = condition

    def collect(self) -> Iterator[Metric]:
        condition = self._condition()
        good = GaugeMetricFamily(
            "citadel_upstream_good", "1 where a new issuing authority would come from the upstream.", labels=["kind"]
        )
        good.add_metric([condition.kind], condition.trouble is None)
        yield good
