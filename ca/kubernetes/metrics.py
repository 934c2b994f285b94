"""What the server measures of Kubernetes. Labels are bounded: clusters of the settings, verbs, resources, reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ca.kubernetes.condition import ClusterCondition


class KubernetesCollector(Collector):
    """Reads at each scrape how it is with each cluster; the names are the same where there is none."""

    def __init__(self, conditions: Callable[[], Sequence[ClusterCondition]]) -> None:
        self._conditions = conditions

    def collect(self) -> Iterator[Metric]:
        good = GaugeMetricFamily(
            "citadel_kubernetes_good", "1 where nothing is wrong with the API server.", labels=["cluster"]
        )
        pods = GaugeMetricFamily(
            "citadel_kubernetes_pods", "Pods that are known, where they are followed.", labels=["cluster"]
        )
        entries = GaugeMetricFamily(
            "citadel_kubernetes_entries", "Entries that were made from pods.", labels=["cluster"]
        )
        problems = GaugeMetricFamily(
            "citadel_kubernetes_pod_problems",
            "Pods that have no entry, or not all of one, though they are admitted.",
            labels=["cluster"],
        )
        credentials = GaugeMetricFamily(
            "citadel_kubernetes_gateway_credentials",
            "Credentials that gateways want: good, behind (the last good one is served), bad, or missing.",
            labels=["cluster", "state"],
        )
        calls = CounterMetricFamily(
            "citadel_kubernetes_calls",
            "Calls to the API server, by verb, resource and outcome: ok or a reason code.",
            labels=["cluster", "verb", "resource", "outcome"],
        )
        for each in self._conditions():
            good.add_metric([each.cluster], not each.troubles)
            if each.pods is not None:
                pods.add_metric([each.cluster], each.pods)
            if each.workloads is not None:
                entries.add_metric([each.cluster], each.workloads.entries)
                problems.add_metric([each.cluster], len(each.workloads.problems))
            for state, number in each.gateways.counts.items() if each.gateways is not None else ():
                credentials.add_metric([each.cluster, state], number)
            for kind, count in each.ended.items():
                calls.add_metric([each.cluster, *kind], count)
        yield from (good, pods, entries, problems, credentials, calls)
