"""What is measured of attesting pods. Labels are bounded: verbs, resources, outcomes; never a pod."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from citadel.clock import Clock
from citadel.kubernetes.observed import Calls
from citadel.metrics import SECONDS
from sds.attest.kubernetes.pods import NodePods


@dataclass(slots=True)
class Wait:
    """One wait for a pod, and whether it was worth it."""

    has_seen: bool = False


class Waits:
    """How long callers waited for their pods to be known, and how many did in vain."""

    def __init__(self, registry: CollectorRegistry, *, clock: Clock) -> None:
        self._clock = clock
        self._seconds = Histogram(
            "citadel_agent_pod_wait_seconds",
            "How long callers waited for their pods to be known.",
            registry=registry,
            buckets=SECONDS,
        )
        self._in_vain = Counter(
            "citadel_agent_pods_unseen", "Callers whose pods were not known in time.", registry=registry
        )

    @contextmanager
    def one(self) -> Iterator[Wait]:
        """Measure a wait."""
        wait, begun = Wait(), self._clock.monotonic()
        yield wait
        self._seconds.observe(self._clock.monotonic() - begun)
        self._in_vain.inc(not wait.has_seen)


class PodCollector(Collector):
    """Reads at each scrape how it is with the API server and the pods of this node."""

    def __init__(self, *, pods: NodePods, calls: Calls) -> None:
        self._pods = pods
        self._calls = calls

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "citadel_agent_kubernetes_good",
            "1 where nothing is wrong with the API server.",
            value=int(self._calls.trouble is None),
        )
        yield GaugeMetricFamily("citadel_agent_pods", "Pods of this node that are known.", value=len(self._pods))
        calls = CounterMetricFamily(
            "citadel_agent_kubernetes_calls",
            "Calls to the API server, by verb, resource and outcome: ok or a reason code.",
            labels=["verb", "resource", "outcome"],
        )
        for kind, count in self._calls.ended.items():
            calls.add_metric(kind, count)
        yield calls
