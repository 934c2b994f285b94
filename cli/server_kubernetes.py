"""Kubernetes, where the settings name it, wired: a client and the pods of each cluster, and what is hung onto them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from ca.kubernetes.condition import ClusterCondition
from ca.kubernetes.following import Basis, Following, troubles_of
from ca.kubernetes.gateways.cluster import GatewayCluster
from ca.kubernetes.note import Note
from ca.kubernetes.permissions import lacking_without, server_permissions
from ca.kubernetes.pods import Pods
from ca.kubernetes.safety import SafetyNet
from ca.kubernetes.settings import ClusterSettings
from ca.kubernetes.workloads.condition import WorkloadCondition
from ca.rotation.ports import Beyond
from ca.settings import ServerSettings
from citadel._wire import admin_pb2
from citadel.clock import Clock
from citadel.kubernetes.observed import ObservedApi
from citadel.kubernetes.opening import open_client
from citadel.kubernetes.ports import KubernetesApi
from citadel.probes import Check

# Goes on until it is cancelled; what the API server refuses or does not answer must not end it. What ends it
# nevertheless ends nothing else, and it is begun anew on the same object.
Work: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """One cluster of the settings. Every call goes through `api`, so that it is counted and what is wrong is seen.

    Whoever has a part in it adds to `work` what is done while this server owns the store, under what people call it,
    and to `notes` what it says to people.
    """

    name: str
    settings: ClusterSettings
    observed: ObservedApi
    pods: Pods
    net: SafetyNet
    notes: list[Callable[[], Iterable[Note]]] = field(default_factory=list)
    following: list[Following] = field(default_factory=list)
    work: dict[str, Work] = field(default_factory=dict)

    @property
    def api(self) -> KubernetesApi:
        """Calls to its API server."""
        return self.observed

    @property
    def follows_pods(self) -> bool:
        """Whether anything that is enabled needs to know its pods; otherwise `pods` stays empty."""
        return any(each.resource == "pods" and "watch" in each.verbs for each in server_permissions(self.settings))

    def all_work(self) -> Mapping[str, Work]:
        """What is done in it, following its pods first where anything needs them."""
        return {"its pods": self.pods.run, **self.work} if self.follows_pods else self.work

    def tell_of(self, basis: Basis, *, clock: Clock) -> None:
        """Say it from now on where this cannot be followed, and what stands still meanwhile."""
        lacking = lacking_without(self.settings, "watch", basis.resource)
        self.following.append(Following(basis=basis, lacking=lacking, since=clock.now(), clock=clock))

    def condition(self) -> ClusterCondition:
        """How it is."""
        return ClusterCondition(
            cluster=self.name,
            troubles=[
                *troubles_of(
                    self.observed.calls,
                    self.following,
                    lacking=lambda kind: lacking_without(self.settings, kind.verb, kind.resource),
                ),
                *self.net.troubles(),
            ],
            pods=len(self.pods.current) if self.follows_pods else None,
            has_synced=self.pods.has_synced,
            ended=self.observed.calls.ended,
            notes=[note for said in self.notes for note in said()],
        )


@dataclass(frozen=True, kw_only=True)
class KubernetesAffairs:
    """The clusters by name, none where the settings name none, and what is done in them.

    `work` is what runs beside that of the clusters, by what people call it, over the `net`. `workloads`
    says how it is with the identities of pods, by cluster, and `gateways` has the credentials of gateways. Rotations
    wait for `beyond`.
    """

    clusters: Mapping[str, Cluster]
    clock: Clock
    net: SafetyNet
    work: dict[str, Work] = field(default_factory=dict)
    workloads: dict[str, Callable[[], WorkloadCondition]] = field(default_factory=dict)
    gateways: dict[str, GatewayCluster] = field(default_factory=dict)
    beyond: list[Beyond] = field(default_factory=list)

    def all_work(self) -> list[Coroutine[Any, Any, None]]:
        """What is to run from now on. No API server was waited for: an outage of one is to make none of Citadel."""
        nets = [(self.net, self.work), *((each.net, each.all_work()) for each in self.clusters.values())]
        return [net.run(what, work) for net, works in nets for what, work in works.items()]

    def conditions(self) -> Sequence[ClusterCondition]:
        """How it is with each cluster."""
        return [
            replace(
                cluster.condition(),
                workloads=self.workloads[name]() if name in self.workloads else None,
                gateways=self.gateways[name].condition() if name in self.gateways else None,
            )
            for name, cluster in self.clusters.items()
        ]

    def check(self, name: str) -> Check:
        """How it is with this cluster, as `/ready` says it."""
        return self.clusters[name].condition().check(self.clock.now())

    def status(self) -> list[admin_pb2.KubernetesStatus]:
        """As `citadel-cli status` shows it."""
        return [condition.status() for condition in self.conditions()]


@asynccontextmanager
async def kubernetes_affairs(settings: ServerSettings, clock: Clock) -> AsyncIterator[KubernetesAffairs]:
    """What the section `kubernetes` asks for, not yet started; its connections end with this. Nothing is sent yet.

    Raises `InvalidArgument` (`config_invalid`) where what speaks to an API server is not installed, or a kubeconfig
    cannot be used.
    """
    async with AsyncExitStack() as stack:
        clusters = {}
        for each in settings.kubernetes.clusters if settings.kubernetes is not None else ():
            client = await open_client(each.api, f"cluster {each.name}")
            stack.push_async_callback(client.close)
            clusters[each.name] = cluster_of(each, client, clock)
            clusters[each.name].tell_of(Basis("what it is reached by", "", client.renewal), clock=clock)
        yield KubernetesAffairs(clusters=clusters, clock=clock, net=SafetyNet("all clusters", clock=clock))


def cluster_of(settings: ClusterSettings, api: KubernetesApi, clock: Clock) -> Cluster:
    """A cluster, which says of its pods where they are to be followed and cannot be."""
    observed = ObservedApi(api, clock=clock)
    cluster = Cluster(
        name=settings.name,
        settings=settings,
        observed=observed,
        pods=Pods(observed, clock=clock),
        net=SafetyNet(settings.name, clock=clock),
    )
    if cluster.follows_pods:
        cluster.tell_of(Basis("its pods", "pods", cluster.pods), clock=clock)
    return cluster


async def check_clients(settings: ServerSettings, clock: Clock) -> None:
    """Raises what would keep `kubernetes_affairs` from being made."""
    async with kubernetes_affairs(settings, clock):
        pass
