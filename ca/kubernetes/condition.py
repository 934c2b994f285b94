"""How it is with a cluster of Kubernetes, for probes, metrics and people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ca.kubernetes.gateways.condition import GatewayCondition
from ca.kubernetes.note import Note
from ca.kubernetes.workloads.condition import WorkloadCondition
from citadel._wire import admin_pb2
from citadel.kubernetes.observed import Trouble
from citadel.probes import Check, Health
from citadel.wire import to_timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterCondition:
    """`troubles` are what is wrong with it, the worst first, and `ended` counts calls by verb, resource and outcome.

    `pods` is None where they are not followed, `workloads` where its pods get no identities, and `gateways` where its
    gateways get no credentials. `notes` are what the parts that work in it say.
    """

    cluster: str
    troubles: Sequence[Trouble]
    pods: int | None
    has_synced: bool
    ended: Mapping[tuple[str, str, str], int]
    workloads: WorkloadCondition | None = None
    gateways: GatewayCondition | None = None
    notes: Sequence[Note] = ()

    def check(self, now: datetime) -> Check:
        """As `/ready` says it. Never dead: what was attested and issued goes on without an API server."""
        name = f"kubernetes {self.cluster}"
        told = [f"{_words_of(each)}, for {_seconds(each, now)} s" for each in self.troubles]
        told += [each.text for each in self.notes if each.is_trouble]
        if told:
            return Check(name, Health.DEGRADED, "; ".join(told))
        if self.pods is None:
            return Check(name, Health.GOOD, "good")
        text = f"{self.pods} pods" if self.has_synced else "its pods are being read for the first time"
        return Check(name, Health.GOOD, text)

    def status(self) -> admin_pb2.KubernetesStatus:
        """As `citadel-cli status` shows it."""
        told = admin_pb2.KubernetesStatus(
            cluster=self.cluster,
            good=not self.troubles,
            pods=self.pods,
            pods_known=self.has_synced,
            notes=[*map(_words_with_time, self.troubles[1:]), *(each.text for each in self.notes)],
        )
        if self.workloads is not None:
            told.workloads.CopyFrom(self.workloads.status())
        if self.gateways is not None:
            told.gateways.CopyFrom(self.gateways.status())
        if self.troubles:
            worst = self.troubles[0]
            told.reason, told.message = worst.error.reason.value, worst.error.message
            told.since.CopyFrom(to_timestamp(worst.since))
        return told


def _words_of(trouble: Trouble) -> str:
    return f"{trouble.error.message} ({trouble.error.reason.value})"


def _words_with_time(trouble: Trouble) -> str:
    return f"{_words_of(trouble)}, since {trouble.since:%Y-%m-%dT%H:%M:%SZ}"


def _seconds(trouble: Trouble, now: datetime) -> int:
    return max(0, round((now - trouble.since).total_seconds()))
