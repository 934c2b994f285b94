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
    """`pods` is None where they are not followed; `ended` counts calls by verb, resource and outcome.

    `workloads` is None where its pods get no identities, `gateways` where its gateways get no credentials. `notes` are
    what the parts that work in it say.
    """

    cluster: str
    trouble: Trouble | None
    pods: int | None
    has_synced: bool
    ended: Mapping[tuple[str, str, str], int]
    workloads: WorkloadCondition | None = None
    gateways: GatewayCondition | None = None
    notes: Sequence[Note] = ()

    def check(self, now: datetime) -> Check:
        """As `/ready` says it. Never dead: what was attested and issued goes on without an API server."""
        name = f"kubernetes {self.cluster}"
        if self.trouble is not None:
            seconds = max(0, round((now - self.trouble.since).total_seconds()))
            error = self.trouble.error
            return Check(name, Health.DEGRADED, f"{error.message} ({error.reason.value}), for {seconds} s")
        if troubles := [each.text for each in self.notes if each.is_trouble]:
            return Check(name, Health.DEGRADED, "; ".join(troubles))
        if self.pods is None:
            return Check(name, Health.GOOD, "good")
        text = f"{self.pods} pods" if self.has_synced else "its pods are being read for the first time"
        return Check(name, Health.GOOD, text)

    def status(self) -> admin_pb2.KubernetesStatus:
        """As `citadel-cli status` shows it."""
        told = admin_pb2.KubernetesStatus(
            cluster=self.cluster,
            good=self.trouble is None,
            pods=self.pods,
            pods_known=self.has_synced,
            notes=[each.text for each in self.notes],
        )
        if self.workloads is not None:
            told.workloads.CopyFrom(self.workloads.status())
        if self.gateways is not None:
            told.gateways.CopyFrom(self.gateways.status())
        if self.trouble is not None:
            told.reason, told.message = self.trouble.error.reason.value, self.trouble.error.message
            told.since.CopyFrom(to_timestamp(self.trouble.since))
        return told
