"""What the server measures of federation. Labels are bounded: trust domains that administrators named, and reasons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ca.federation.federations import Federations
from ca.federation.known import ForeignBundles
from citadel.clock import Clock
from citadel.errors import Reason


class FederationCollector(Collector):
    """Reads how old each foreign bundle is, and what fetching failed for, at each scrape."""

    def __init__(
        self, *, federations: Federations, bundles: ForeignBundles, failures: Mapping[Reason, int], clock: Clock
    ) -> None:
        self._federations = federations
        self._bundles = bundles
        self._failures = failures
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        now = self._clock.now()
        refreshed = {each.trust_domain: each.refreshed_at for each in self._federations.all()}
        ages = GaugeMetricFamily(
            "citadel_foreign_bundle_age_seconds",
            "How long ago a foreign bundle was fetched last, or set by hand.",
            labels=["trust_domain"],
        )
        for trust_domain, known in self._bundles.all().items():
            at = refreshed.get(trust_domain) or known.updated_at
            ages.add_metric([trust_domain.name], max(0.0, (now - at).total_seconds()))
        yield ages
        failures = CounterMetricFamily(
            "citadel_federation_failures",
            "Fetches of foreign bundles that brought nothing, by reason.",
            labels=["reason"],
        )
        for reason, count in self._failures.items():
            failures.add_metric([reason.value], count)
        yield failures
        failing = sum(each.error is not None for each in self._federations.all())
        yield GaugeMetricFamily(
            "citadel_federations_failing", "Federations whose last fetch brought nothing.", value=failing
        )
