"""Whether the policies and the keys of issuers are the newest. Labels are bounded: the issuers in the policy file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from sds.authz.policy_file import PolicyFile


class PolicyCollector(Collector):
    """Reads the state at each scrape, so that nothing has to be kept in step."""

    def __init__(self, policies: PolicyFile) -> None:
        self._policies = policies

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "citadel_agent_authz_policies_refused",
            "1 while the policy file holds what is not taken: the policies before it stay.",
            value=int(self._policies.is_refused),
        )
        degraded: defaultdict[str, bool] = defaultdict(bool)
        for each in self._policies.issuers():  # one issuer may be fetched from in several ways
            degraded[each.issuer] |= each.degraded
        keys = GaugeMetricFamily(
            "citadel_agent_issuer_keys_degraded",
            "1 while an issuer's keys are missing, or cannot be fetched anew.",
            labels=["issuer"],
        )
        for issuer, is_degraded in degraded.items():
            keys.add_metric([issuer], int(is_degraded))
        yield keys
