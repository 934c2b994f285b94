"""What is said of an API server: how calls to it ended, and what is wrong with it now."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from citadel.errors import CitadelError, FailedPrecondition, Reason, Unavailable
from citadel.kubernetes.observed import Kind, ObservedApi, kind_of
from citadel.kubernetes.ports import ApiUnavailable, WatchExpired
from tests.clock import FakeClock
from tests.kube_fake import FakeKubernetes

PODS, NODES = "/api/v1/pods", "/api/v1/nodes/n1"
DENIED = Unavailable(Reason.KUBERNETES_DENIED, "pods is forbidden")
AWAY = ApiUnavailable("away")


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.fake = FakeKubernetes()
        self.fake.put(NODES, {"metadata": {"name": "n1"}})
        self.api = ObservedApi(self.fake, clock=self.clock)

    async def call(self, path: str, error: CitadelError | None = None) -> None:
        self.fake.fails = error
        with suppress(CitadelError):
            await (self.api.list(path) if path == PODS else self.api.get(path))

    @property
    def wrong(self) -> Reason | None:
        trouble = self.api.calls.trouble
        return trouble.error.reason if trouble is not None else None


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_calls_are_counted_by_verb_resource_and_outcome(bench: Bench) -> None:
    for error in (None, None, AWAY):
        await bench.call(PODS, error)
    await bench.call("/api/v1/nodes/n9")
    assert dict(bench.api.calls.ended) == {
        ("list", "pods", "ok"): 2,
        ("list", "pods", "kubernetes_unavailable"): 1,
        ("get", "nodes", "kubernetes_not_found"): 1,
    }


async def test_it_is_away_from_the_first_failure_until_any_call_is_answered(bench: Bench) -> None:
    began = bench.clock.now()
    await bench.call(PODS, AWAY)
    await bench.clock.advance(60)
    await bench.call(NODES, AWAY)
    trouble = bench.api.calls.trouble
    assert trouble is not None
    assert (trouble.error.reason, trouble.since) == (Reason.KUBERNETES_UNAVAILABLE, began)
    await bench.call(NODES)
    assert bench.wrong is None


async def test_what_is_denied_stays_until_that_kind_of_call_is_allowed(bench: Bench) -> None:
    await bench.call(PODS, DENIED)
    await bench.call(NODES)
    assert bench.wrong is Reason.KUBERNETES_DENIED
    await bench.call(PODS)
    assert bench.wrong is None


async def test_being_away_is_worse_and_shows_what_was_denied_again_after_it(bench: Bench) -> None:
    await bench.call(PODS, DENIED)
    await bench.call(NODES, AWAY)
    assert bench.wrong is Reason.KUBERNETES_UNAVAILABLE
    await bench.call(NODES)
    assert bench.wrong is Reason.KUBERNETES_DENIED


@pytest.mark.parametrize(
    "error",
    [
        FailedPrecondition(Reason.KUBERNETES_CONFLICT, "changed"),
        Unavailable(Reason.KUBERNETES_REFUSED, "this object is none"),
        WatchExpired("too old"),
    ],
)
async def test_what_is_said_of_one_object_is_an_answer_like_others(bench: Bench, error: CitadelError) -> None:
    await bench.call(PODS, AWAY)
    await bench.call(PODS, error)
    assert bench.wrong is None


async def test_a_watch_that_is_open_shows_that_the_server_is_there_and_one_that_breaks_that_it_is_not(
    bench: Bench,
) -> None:
    await bench.call(PODS, AWAY)
    bench.fake.fails = None

    async def watch() -> None:
        async with bench.api.watch(PODS, resource_version="0") as events:
            async for _ in events:
                pass

    watching = asyncio.create_task(watch())
    await bench.clock.advance(0)
    assert bench.wrong is None
    bench.fake.break_watches(AWAY)
    with suppress(CitadelError):
        await watching
    assert bench.wrong is Reason.KUBERNETES_UNAVAILABLE


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("/api/v1/pods", "pods"),
        ("/api/v1/namespaces", "namespaces"),
        ("/api/v1/namespaces/shop", "namespaces"),
        ("/api/v1/namespaces/shop/pods", "pods"),
        ("/api/v1/namespaces/shop/pods/web-0", "pods"),
        ("/api/v1/namespaces/shop/pods/web-0/status", "pods/status"),
        ("/apis/authentication.k8s.io/v1/tokenreviews", "tokenreviews"),
        ("/apis/certificates.k8s.io/v1/certificatesigningrequests/a/approval", "certificatesigningrequests/approval"),
        ("/apis/certificates.k8s.io/v1", ""),
        ("/apis/certificates.k8s.io", ""),
        ("/version", ""),
    ],
)
def test_the_kind_of_a_call_has_no_names_in_it(path: str, resource: str) -> None:
    assert kind_of("get", path) == Kind("get", resource)
