"""What the server says of a cluster whose pods or services cannot be followed, though its calls are answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ca.kubernetes.settings import ClusterSettings
from ca.kubernetes.workloads.services import SERVICES, Service, Services, service_of
from citadel.errors import CitadelError, NotFound, Reason, Unavailable
from citadel.kubernetes.informer import Informer
from citadel.probes import Health
from cli.server_kubernetes import Cluster, cluster_of
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
        text = f"its pods cannot be followed: {error.message}"
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
    theirs.tell_of("its services", services, clock=clock)
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
        "its pods could not be read yet (kubernetes_unavailable), for 61 s",
    )
