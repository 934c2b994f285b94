"""How often each rule decided. Labels are bounded: the names in the policy file, and reason codes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from citadel.actor import Actor
from citadel.errors import CitadelError
from citadel.spiffe import SpiffeId


class OnRefusedRequest(Protocol):
    """Is told of each refusal: of what, why, and whose request it was, where that was proven."""

    def __call__(self, what: str, error: CitadelError, /, *, by: Actor | None) -> None: ...


class Decisions(Collector):
    """Counts decisions, and tells `on_refusal` of those that refuse. Lives on one event loop."""

    def __init__(self, *, on_refusal: OnRefusedRequest) -> None:
        self._on_refusal = on_refusal
        self._counts: Counter[tuple[str, str, str]] = Counter()

    def allowed(self, policy: str, rule: str) -> None:
        """A request was let through by a rule."""
        self._counts[policy, rule, ""] += 1

    def refused(self, policy: str, rule: str, error: CitadelError, *, peer: SpiffeId | None = None) -> None:
        """One of `peer` was refused: by a rule, or by none. Empty names stand for what had not been found out yet."""
        self._counts[policy, rule, error.reason.value] += 1
        what = f"a request at the proxies of {policy!r}" if policy else "a proxy without a policy"
        by = Actor.identity(peer) if peer is not None else None
        self._on_refusal(f"{what}, decided by {rule}" if rule else what, error, by=by)

    def collect(self) -> Iterator[Metric]:
        decided = CounterMetricFamily(
            "citadel_agent_authz_decisions",
            "Requests that proxies asked about, by policy and deciding rule; without a reason they were let through.",
            labels=["policy", "rule", "reason"],
        )
        for labels, count in self._counts.items():
            decided.add_metric(labels, count)
        yield decided
