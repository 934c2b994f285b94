"""Where an agent is: what its token says, held against what is there now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import pytest

from ca.kubernetes.accounts import Named, ProvenAccount
from ca.kubernetes.nodes import Places
from citadel.errors import Reason, Unauthenticated
from tests.clock import FakeClock
from tests.unit.ca.kubernetes.fake_cluster import FakeCluster, Reviews

X, N1 = Named("agent-x", "pod-1"), Named("n1", "node-1")


def account(pod: Named | None = X, node: Named | None = N1) -> ProvenAccount:
    ends_at = datetime(2026, 1, 2, tzinfo=UTC)
    return ProvenAccount(cluster="c1", namespace="mesh", name="agent", uid="sa-1", pod=pod, node=node, ends_at=ends_at)


@pytest.fixture(params=[False, True], ids=["asked", "followed"])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[FakeCluster]:
    """One whose pods are followed, and one where they are not known yet."""
    cluster = FakeCluster(Reviews(), FakeClock())
    running = asyncio.create_task(cluster.pods.run()) if request.param else None
    await cluster.follow()
    yield cluster
    if running is not None:
        running.cancel()


async def test_it_is_where_its_pod_is(cluster: FakeCluster) -> None:
    place = await Places(cluster.api, cluster.pods).of(account())
    assert (place.cluster, place.pod.key, place.node) == ("c1", "mesh/agent-x", N1)


async def test_an_older_api_server_says_the_node_when_it_is_asked(cluster: FakeCluster) -> None:
    assert (await Places(cluster.api, cluster.pods).of(account(node=None))).node == N1


async def test_what_is_followed_is_not_asked_for(cluster: FakeCluster) -> None:
    cluster.api.calls.clear()
    await Places(cluster.api, cluster.pods).of(account())
    pods = [path for verb, path in cluster.api.calls if verb == "get" and "/pods/" in path]
    assert pods == ([] if cluster.pods.has_synced else ["/api/v1/namespaces/mesh/pods/agent-x"])


async def test_a_pod_that_was_not_heard_of_yet_is_asked_for(cluster: FakeCluster) -> None:
    cluster.api.watchers.clear()  # from now on a watch brings nothing
    cluster.pod("agent-y", uid="pod-2")
    place = await Places(cluster.api, cluster.pods).of(account(pod=Named("agent-y", "pod-2")))
    assert place.pod.uid == "pod-2"


async def test_a_pod_that_was_told_of_before_it_was_bound_is_asked_for(cluster: FakeCluster) -> None:
    cluster.pod("agent-y", uid="pod-2", node="")
    await cluster.follow()
    cluster.api.watchers.clear()  # from now on a watch brings nothing
    places = Places(cluster.api, cluster.pods)
    with pytest.raises(Unauthenticated):
        await places.of(account(pod=Named("agent-y", "pod-2")))
    cluster.pod("agent-y", uid="pod-2")
    place = await places.of(account(pod=Named("agent-y", "pod-2")))
    assert (place.pod.uid, place.pod.node) == ("pod-2", "n1")
    places.refuse_gone(place)  # what is followed is behind, and says nothing else


@pytest.mark.parametrize(
    "change",
    [
        lambda cluster: cluster.drop("agent-x"),
        lambda cluster: cluster.pod("agent-x", uid="pod-9"),  # made anew under its name
        lambda cluster: cluster.pod("agent-x", uid="pod-1", phase="Succeeded"),
        lambda cluster: cluster.pod("agent-x", uid="pod-1", node="n2"),
        lambda cluster: cluster.pod("agent-x", uid="pod-1", node=""),
        lambda cluster: cluster.pod("agent-x", uid="pod-1", account="other"),
        lambda cluster: cluster.node("n1", uid="node-9"),
        lambda cluster: cluster.api.drop("/api/v1/nodes/n1"),
    ],
)
async def test_what_has_changed_since_the_token_was_made_refuses_it(
    cluster: FakeCluster, change: Callable[[FakeCluster], None]
) -> None:
    change(cluster)
    await cluster.follow()
    with pytest.raises(Unauthenticated) as refused:
        await Places(cluster.api, cluster.pods).of(account())
    assert refused.value.reason is Reason.K8S_POD_UNKNOWN


@pytest.mark.parametrize(
    ("pod", "node"),
    [(None, N1), (None, None), (Named("agent-y", "pod-1"), N1), (Named("../../nodes/n1", "node-1"), N1)],
)
async def test_a_token_that_names_no_pod_that_is_there(
    cluster: FakeCluster, pod: Named | None, node: Named | None
) -> None:
    with pytest.raises(Unauthenticated) as refused:
        await Places(cluster.api, cluster.pods).of(account(pod=pod, node=node))
    assert refused.value.reason is Reason.K8S_POD_UNKNOWN
