"""What is measured of signers. Labels are bounded: clusters of the settings, kinds and outcomes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ca.kubernetes.signers.answering import Outcome, Standing
from ca.kubernetes.signers.certificate_requests import CertificateRequests
from ca.kubernetes.signers.pod_certificates import PodCertificates


class SignerCollector(Collector):
    """Reads at each scrape how many requests were answered, by cluster; the names are the same where there are none."""

    def __init__(
        self,
        certificate_requests: Mapping[str, CertificateRequests],
        pod_certificates: Mapping[str, PodCertificates],
    ) -> None:
        self._certificate_requests = certificate_requests
        self._pod_certificates = pod_certificates

    def collect(self) -> Iterator[Metric]:
        answered = CounterMetricFamily(
            "citadel_kubernetes_requests",
            "Requests that were answered, by kind of object and outcome.",
            labels=["cluster", "kind", "outcome"],
        )
        failing = GaugeMetricFamily(
            "citadel_kubernetes_requests_failing",
            "Requests that could not be answered yet, and are tried again.",
            labels=["cluster", "kind"],
        )
        for cluster, kind, standing in self._standings():
            for outcome in Outcome:
                answered.add_metric([cluster, kind, outcome.value], standing.outcomes.get(outcome, 0))
            failing.add_metric([cluster, kind], len(standing.failing))
        yield from (answered, failing)

    def _standings(self) -> Iterator[tuple[str, str, Standing]]:
        for cluster, requests in self._certificate_requests.items():
            yield cluster, "CertificateSigningRequest", requests.standing
        for cluster, pods in self._pod_certificates.items():
            yield cluster, "PodCertificateRequest", pods.standing
