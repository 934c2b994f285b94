"""Which entry a pod is to have, or why it has none. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from ca.entries.rules import MAX_DNS_NAMES, check_dns_name, check_entry
from ca.kubernetes.pods import Pod
from ca.kubernetes.settings import WorkloadSettings
from ca.kubernetes.workloads.labels import LabelSelector
from ca.kubernetes.workloads.services import names_of
from ca.kubernetes.workloads.template import IdTemplate
from citadel.entry import Entry
from citadel.errors import CitadelError, InvalidArgument
from citadel.reserved import k8s_agent_id
from citadel.selector import Selector
from citadel.spiffe import TrustDomain

_ORIGIN: Final = "k8s:"


def origin_prefix(cluster: str) -> str:
    """How the origins of all entries of a cluster begin."""
    return f"{_ORIGIN}{cluster}/"


def cluster_of(origin: str) -> str | None:
    """The cluster that an entry of this origin is of; None where it is of none."""
    return origin.removeprefix(_ORIGIN).partition("/")[0] if origin.startswith(_ORIGIN) else None


class Left(StrEnum):
    """Why a pod has no entry although nothing is wrong."""

    NAMESPACE = "its namespace is not admitted"
    LABELS = "its labels do not fit"
    ACCOUNT = "it has no service account: kubelet runs it by itself"
    UNBOUND = "it is not bound to a node yet"
    ENDED = "it has ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The entry that a pod is to have; or why none, or what is wrong with the one that it has."""

    entry: Entry | None = None
    left: Left | None = None
    problem: str = ""


class PodRules:
    """The rules of one cluster by its settings, of which those that raise `ValueError` here are refused when read."""

    def __init__(self, settings: WorkloadSettings, *, trust_domain: TrustDomain, cluster: str) -> None:
        self._settings = settings
        self._trust_domain = trust_domain
        self._cluster = cluster
        self._template = IdTemplate.parse(settings.template, trust_domain=trust_domain, cluster=cluster)
        self._labels = LabelSelector.parse(settings.pod_labels)
        self._federates_with = frozenset(settings.federates_with)

    @property
    def names_services(self) -> bool:
        """Whether the services that select a pod stand in its certificate."""
        return self._settings.service_dns_names

    def judge(self, pod: Pod, services: Sequence[str], now: datetime) -> Verdict:
        """What becomes of this pod, which these services of its namespace select."""
        if (left := self._left(pod)) is not None:
            return Verdict(left=left)
        try:
            names, too_many = self._dns_names(pod, services)
            entry = self._entry(pod, names)
            check_entry(entry, trust_domain=self._trust_domain, now=now)
        except CitadelError as error:
            return Verdict(problem=error.message)
        return Verdict(entry=entry, problem=too_many)

    def _left(self, pod: Pod) -> Left | None:
        if not self._settings.namespaces.admits(pod.namespace):
            return Left.NAMESPACE
        if not self._labels.matches(dict(pod.labels)):
            return Left.LABELS
        if not pod.service_account:
            return Left.ACCOUNT
        if pod.has_ended:
            return Left.ENDED
        return None if pod.node else Left.UNBOUND

    def _entry(self, pod: Pod, dns_names: tuple[str, ...]) -> Entry:
        return Entry(
            id="",
            spiffe_id=self._template.fill(namespace=pod.namespace, service_account=pod.service_account, pod=pod.name),
            parent_id=k8s_agent_id(self._trust_domain, self._cluster, pod.node),
            selectors=frozenset({Selector("k8s", f"pod-uid:{pod.uid}")}),
            x509_svid_ttl=self._settings.x509_svid_ttl,
            jwt_svid_ttl=self._settings.jwt_svid_ttl,
            dns_names=dns_names,
            federates_with=self._federates_with,
            origin=f"{origin_prefix(self._cluster)}{pod.key}",
        )

    def _dns_names(self, pod: Pod, services: Sequence[str]) -> tuple[tuple[str, ...], str]:
        """The names that fit into an entry, and what is said of the others."""
        if not self.names_services:
            return (), ""
        named = names_of(services, pod.namespace, self._settings.cluster_domain)
        names = tuple(name for name in named if _is_possible(name))
        more = len(names) - MAX_DNS_NAMES
        said = f"{more} names of services are left out: a certificate has up to {MAX_DNS_NAMES}" if more > 0 else ""
        return names[:MAX_DNS_NAMES], said


def _is_possible(name: str) -> bool:
    try:
        check_dns_name(name)
    except InvalidArgument:  # too long with the domain of the cluster
        return False
    return True
