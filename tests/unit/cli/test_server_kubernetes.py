"""What the server says of a cluster whose pods or services cannot be followed, though its calls are answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from ca.kubernetes.discovery import GROUP
from ca.kubernetes.following import Basis
from ca.kubernetes.safety import SafetyNet
from ca.kubernetes.settings import ClusterSettings
from ca.kubernetes.workloads.services import SERVICES, Service, Services, service_of
from citadel.bundle import TrustBundle
from citadel.errors import CitadelError, NotFound, Reason, Unavailable
from citadel.kubernetes.informer import Informer
from citadel.kubernetes.ports import ApiUnavailable, Each, Listed, as_it_is
from citadel.probes import Health
from cli.server_kubernetes import Cluster, KubernetesAffairs, cluster_of
from cli.server_kubernetes_bundles import hang_bundles
from tests.certificates import bundle, root
from tests.clock import FakeClock
from tests.kube_fake import FakeKubernetes


def cluster(api: FakeKubernetes, clock: FakeClock) -> Cluster:
    return cluster_of(ClusterSettings.model_validate({"name": "c1", "workloads": {}}), api, clock)


@asynccontextmanager
async def running(work: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    task = asyncio.create_task(work())
    try:
        yield
    finally:
        task.cancel()


def ready(cluster: Cluster, clock: FakeClock) -> tuple[Health, str]:
    check = cluster.condition().check(clock.now())
    return check.health, check.text


REFUSALS = [Unavailable(Reason.KUBERNETES_REFUSED, "the request is bad"), NotFound(Reason.KUBERNETES_NOT_FOUND, "none")]


@pytest.mark.parametrize("error", REFUSALS)
async def test_pods_whose_list_is_refused_are_told_of_until_it_is_not(error: CitadelError) -> None:
    clock, api = FakeClock(), FakeKubernetes(fails=error)
    theirs = cluster(api, clock)
    async with running(theirs.pods.run):
        await clock.advance(10)
        text = f"its pods cannot be followed: {error.message}; until then: new pods get no identity"
        assert ready(theirs, clock) == (Health.DEGRADED, f"{text} ({error.reason.value}), for 0 s")
        await clock.advance(5)
        assert ready(theirs, clock) == (Health.DEGRADED, f"{text} ({error.reason.value}), for 5 s")
        status = theirs.condition().status()
        assert (status.good, status.reason, status.message) == (False, error.reason.value, text)
        api.fails = None
        await clock.advance(60)
        assert ready(theirs, clock) == (Health.GOOD, "0 pods")
        assert theirs.condition().status().good


async def test_services_whose_list_is_refused_are_told_of() -> None:
    clock, api = FakeClock(), FakeKubernetes(fails=REFUSALS[0])
    theirs = cluster(FakeKubernetes(), clock)
    informer: Informer[Service] = Informer(api, SERVICES, keep=service_of, clock=clock)
    services = Services(informer)
    theirs.tell_of(Basis("its services", "services", services), clock=clock)
    async with running(services.run), running(theirs.pods.run):
        await clock.advance(10)
        text = "its services cannot be followed: the request is bad (kubernetes_refused), for 0 s"
        assert ready(theirs, clock) == (Health.DEGRADED, text)


async def test_a_first_list_that_hangs_is_told_of_after_a_minute() -> None:
    clock = FakeClock()
    theirs = cluster(FakeKubernetes(), clock)  # not run, so that nothing is ever listed
    clock.leap(60)
    assert ready(theirs, clock) == (Health.GOOD, "its pods are being read for the first time")
    clock.leap(1)
    assert ready(theirs, clock) == (
        Health.DEGRADED,
        "its pods could not be read yet; until then: new pods get no identity (kubernetes_unavailable), for 61 s",
    )


class Partly(FakeKubernetes):
    """An API server that does not answer what begins with `refused` other than with `error`."""

    refused = "-"
    error: CitadelError = Unavailable(Reason.KUBERNETES_DENIED, "it is forbidden")

    def _called(self, verb: str, path: str) -> None:
        super()._called(verb, path)
        if path.startswith(self.refused):
            raise self.error


class Own:
    """The own bundle."""

    def bundle(self) -> TrustBundle:
        return bundle(root("one"), sequence=1)

    def watch(self, callback: Callable[[], None]) -> None:
        del callback


NAMED = "a.test:workload:roots"
BUNDLES = {
    "config_maps": [{"name": "roots", "key": "roots.pem"}],
    "cluster_trust_bundle": {"name": NAMED, "signer_name": "a.test/workload"},
}


@asynccontextmanager
async def keeping(api: FakeKubernetes, clock: FakeClock) -> AsyncIterator[Cluster]:
    """A cluster in which the bundle is kept."""
    api.put("/api/v1/namespaces/shop", {"metadata": {"name": "shop"}})
    api.objects[f"{GROUP}/v1"] = {"resources": [{"name": "clustertrustbundles"}]}
    settings = ClusterSettings.model_validate({"name": "c1", "bundles": BUNDLES})
    theirs = cluster_of(settings, api, clock)
    affairs = KubernetesAffairs(clusters={"c1": theirs}, clock=clock, net=SafetyNet("all clusters", clock=clock))
    hang_bundles(affairs, own=Own(), metrics=CollectorRegistry(), clock=clock)
    async with running(theirs.work["the trust bundle"]):
        await clock.advance(1)
        yield theirs


IN_NAMESPACES = "the trust bundle is not kept in the namespaces"


@pytest.mark.parametrize(
    ("path", "what", "lacking"),
    [
        ("/api/v1/namespaces", "its namespaces", IN_NAMESPACES),
        ("/api/v1/configmaps", "its ConfigMaps roots", IN_NAMESPACES),
        (f"{GROUP}/v1/clustertrustbundles", f"its ClusterTrustBundle {NAMED}", "the ClusterTrustBundle is not kept"),
    ],
)
async def test_what_cannot_be_followed_is_told_of_with_what_stands_still_and_since_when(
    path: str, what: str, lacking: str
) -> None:
    clock, api = FakeClock(), Partly()
    api.refused = path
    async with keeping(api, clock) as theirs:
        await clock.advance(59)
        text = f"{what} cannot be followed: it is forbidden; until then: {lacking}"
        assert ready(theirs, clock) == (Health.DEGRADED, f"{text} (kubernetes_denied), for 60 s")
        status = theirs.condition().status()
        assert (status.good, status.reason, status.message) == (False, "kubernetes_denied", text)
        assert status.since.ToDatetime(UTC) == clock.now() - timedelta(seconds=60)
        api.refused = "-"
        await clock.advance(60)
        assert ready(theirs, clock) == (Health.GOOD, "good")
        api.refused = path
        api.break_watches(api.error)
        await clock.advance(10)
        told = "what was told before counts, what is new may be missed"
        assert f"{what} cannot be followed: it is forbidden; {told}: {lacking}" in ready(theirs, clock)[1]


async def test_all_that_is_wrong_is_told_of_each_once() -> None:
    clock, api = FakeClock(), Partly()
    api.refused = "/api/v1/"
    async with keeping(api, clock) as theirs:
        texts = ready(theirs, clock)[1].split("; its ")
        assert [each.partition(" cannot")[0] for each in texts] == ["its namespaces", "ConfigMaps roots"]
        assert len(theirs.condition().troubles) == 2
        status = theirs.condition().status()
        assert "its namespaces cannot be followed" in status.message
        assert [note for note in status.notes if note.endswith("(kubernetes_denied), since 2026-01-01T00:00:00Z")]


async def test_an_api_server_that_is_away_is_told_of_once_and_before_all_else() -> None:
    clock, api = FakeClock(), Partly()
    async with keeping(api, clock) as theirs:
        theirs.tell_of(Basis("what it is reached by", "", Unread()), clock=clock)
        api.fails = ApiUnavailable("away")
        api.break_watches(api.fails)
        await clock.advance(60)
        health, text = ready(theirs, clock)
        assert health is Health.DEGRADED
        assert text == (
            "away (kubernetes_unavailable), for 60 s; "
            "what it is reached by cannot be followed: half a kubeconfig (config_invalid), for 0 s"
        )


@pytest.mark.invariant(8)
async def test_a_cluster_whose_work_ends_is_degraded_and_ends_no_work_of_others() -> None:
    clock, api = FakeClock(), FakeKubernetes()
    broken, sound = (cluster_of(ClusterSettings.model_validate({"name": each}), api, clock) for each in ("c1", "c2"))

    async def breaks() -> None:
        raise KeyError(3)

    begun: list[float] = []

    async def goes_on() -> None:
        begun.append(clock.monotonic())
        await asyncio.Event().wait()

    broken.work["credentials of gateways"], sound.work["its services"] = breaks, goes_on
    net = SafetyNet("all clusters", clock=clock)
    affairs = KubernetesAffairs(clusters={"c1": broken, "c2": sound}, clock=clock, net=net, work={"more": goes_on})
    tasks = [asyncio.create_task(each) for each in affairs.all_work()]
    await clock.advance(10)
    assert not any(task.done() for task in tasks)
    own = "the server's own fault, KeyError: see its log"
    text = f"the work on credentials of gateways ended, and is begun anew: {own}"
    assert ready(broken, clock) == (Health.DEGRADED, f"{text} (internal), for 10 s")
    status = broken.condition().status()
    assert (status.good, status.reason, status.message) == (False, "internal", text)
    assert ready(sound, clock) == (Health.GOOD, "good")
    assert begun == [0, 0]
    for task in tasks:
        task.cancel()


class Unread:
    """What opens the way to an API server and could not be read anew."""

    has_synced = True
    trouble = Unavailable(Reason.CONFIG_INVALID, "half a kubeconfig")


async def test_a_list_that_hangs_is_told_of_after_a_minute_wherever_it_is() -> None:
    clock, api = FakeClock(), Hanging()
    async with keeping(api, clock) as theirs:
        await clock.advance(59)
        assert ready(theirs, clock) == (Health.GOOD, "good")
        await clock.advance(1)
        text = "its ConfigMaps roots could not be read yet; until then: the trust bundle is not kept in the namespaces"
        assert ready(theirs, clock) == (Health.DEGRADED, f"{text} (kubernetes_unavailable), for 61 s")


class Hanging(FakeKubernetes):
    """An API server that never answers who lists ConfigMaps."""

    async def list(self, path: str, *, labels: str = "", fields: str = "", each: Each = as_it_is) -> Listed:
        if path == "/api/v1/configmaps":
            await asyncio.Event().wait()
        return await super().list(path, labels=labels, fields=fields, each=each)


async def test_a_call_that_is_not_allowed_says_what_stands_still_without_it() -> None:
    clock, api = FakeClock(), Partly()
    api.refused = "/api/v1/namespaces/shop/configmaps"
    async with keeping(api, clock) as theirs:
        assert "it is forbidden; until then: the trust bundle is not kept in the namespaces" in ready(theirs, clock)[1]
