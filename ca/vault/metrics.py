"""What the server measures of Vault."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ca.vault.condition import VaultCondition


class VaultCollector(Collector):
    """Reads at each scrape how it is, where there is a Vault, and what was done so far by act and outcome."""

    def __init__(self, condition: Callable[[], VaultCondition | None], acts: Mapping[tuple[str, str], int]) -> None:
        self._condition = condition
        self._acts = acts

    def collect(self) -> Iterator[Metric]:
        good = GaugeMetricFamily("citadel_vault_good", "1 where nothing is wrong with Vault.", labels=[])
        condition = self._condition()
        if condition is not None:
            good.add_metric([], condition.worry is None)
        yield good
        acts = CounterMetricFamily(
            "citadel_vault_acts",
            "Log-ins, renewals of the token and calls, by outcome: ok or a reason code.",
            labels=["act", "outcome"],
        )
        for (act, outcome), count in self._acts.items():
            acts.add_metric([act, outcome], count)
        yield acts
