"""The pods of a cluster, as they come, change and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ca.kubernetes.pods import Owner, Pod, Pods, pod_of
from citadel.kubernetes.ports import KubeObject
from tests.clock import FakeClock
from tests.kube_fake import FakeKubernetes


def pod(name: str, *, uid: str, node: str = "n1", phase: str = "Running", **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": "shop",
            "name": name,
            "uid": uid,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            **metadata,
        },
        "spec": {"nodeName": node, "serviceAccountName": "web"},
        "status": {"phase": phase, "podIPs": [{"ip": "10.1.0.7"}]},
    }


def at(name: str) -> str:
    return f"/api/v1/namespaces/shop/pods/{name}"


@pytest.fixture
async def api() -> FakeKubernetes:
    return FakeKubernetes()


async def test_before_the_first_list_nothing_is_known_to_be_missing(api: FakeKubernetes) -> None:
    assert not Pods(api, clock=FakeClock()).has_synced


@pytest.fixture
async def pods(api: FakeKubernetes) -> AsyncIterator[Pods]:
    pods = Pods(api, clock=FakeClock())
    running = asyncio.create_task(pods.run())
    yield pods
    running.cancel()


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_pod_is_found_by_name_uid_and_node_while_it_is_there(api: FakeKubernetes, pods: Pods) -> None:
    api.put(at("a"), pod("a", uid="u1", labels={"app": "web"}))
    await pods.until_synced()
    await settled()
    found = pods.named("shop", "a")
    assert found == Pod(
        namespace="shop",
        name="a",
        uid="u1",
        node="n1",
        service_account="web",
        labels=(("app", "web"),),
        owners=(),
        phase="Running",
        ips=("10.1.0.7",),
        created="2026-01-01T00:00:00Z",
    )
    assert pods.with_uid("u1") is found
    assert dict(pods.on_node("n1")) == {"u1": found}
    await settled()
    api.drop(at("a"))
    await settled()
    assert (pods.named("shop", "a"), pods.with_uid("u1"), dict(pods.on_node("n1"))) == (None, None, {})


async def test_one_that_is_bound_later_is_on_its_node_from_then_on(api: FakeKubernetes, pods: Pods) -> None:
    api.put(at("a"), pod("a", uid="u1", node=""))
    await pods.until_synced()
    await settled()
    assert dict(pods.on_node("")) == {}
    api.put(at("a"), pod("a", uid="u1", node="n2"))
    await settled()
    assert set(pods.on_node("n2")) == {"u1"}


async def test_a_name_that_passes_to_another_pod_leaves_nothing_of_the_first(api: FakeKubernetes, pods: Pods) -> None:
    told: list[tuple[str | None, str | None]] = []

    def follower(key: str, before: Pod | None, after: Pod | None) -> None:
        assert key == "shop/a"
        # Who is told finds what it is told of.
        assert after is None or pods.with_uid(after.uid) is after
        told.append((before and before.uid, after and after.uid))

    pods.follow(follower)
    api.put(at("a"), pod("a", uid="u1"))
    await pods.until_synced()
    await settled()
    api.put(at("a"), pod("a", uid="u2", node="n2"))  # deleted and made again while nobody watched
    await settled()
    assert told == [(None, "u1"), ("u1", "u2")]
    assert pods.with_uid("u1") is None
    assert (dict(pods.on_node("n1")), set(pods.on_node("n2"))) == ({}, {"u2"})


def test_what_is_kept_is_small_and_shared() -> None:
    owner = {"kind": "ReplicaSet", "name": "web-1", "uid": "r1", "apiVersion": "apps/v1"}
    one = pod_of(pod("a", uid="u1", labels={"b": "2", "a": "1"}, ownerReferences=[owner]))
    two = pod_of(pod("b", uid="u2", labels={"a": "1"}))
    assert one is not None
    assert two is not None
    assert one.labels == (("a", "1"), ("b", "2"))
    assert one.owners == (Owner("ReplicaSet", "web-1", "r1"),)
    assert one.node is two.node
    assert one.labels[0][0] is two.labels[0][0]


@pytest.mark.parametrize(
    ("phase", "ended"), [("Pending", False), ("Running", False), ("Succeeded", True), ("Failed", True)]
)
def test_a_pod_has_ended_when_all_its_containers_have(phase: str, ended: bool) -> None:
    found = pod_of(pod("a", uid="u1", phase=phase))
    assert found is not None
    assert found.has_ended is ended


def test_what_a_kubelet_runs_by_itself_has_no_service_account() -> None:
    mirror = pod("a", uid="u1", annotations={"kubernetes.io/config.mirror": "h1"})
    del mirror["spec"]["serviceAccountName"]
    found = pod_of(mirror)
    assert found is not None
    assert found.service_account == ""


@pytest.mark.parametrize("odd", [{}, {"metadata": None}, {"metadata": {"name": "a", "namespace": "shop"}}])
def test_what_no_api_server_writes_is_no_pod(odd: dict[str, Any]) -> None:
    assert pod_of(odd) is None


class Slow(FakeKubernetes):
    """An API server that answers nothing before it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.at_once = 0
        self.most = 0

    async def get(self, path: str) -> KubeObject:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await self.gate.wait()
        self.at_once -= 1
        return await super().get(path)


async def test_many_who_ask_for_a_pod_share_one_call_and_calls_are_few_at_a_time() -> None:
    api = Slow()
    api.put(at("a"), pod("a", uid="u1"))
    pods = Pods(api, clock=FakeClock())
    same = [asyncio.create_task(pods.asked("shop", "a", "u1")) for _ in range(100)]
    others = [asyncio.create_task(pods.asked("shop", f"b{number}", "u2")) for number in range(100)]
    await settled()
    same.pop().cancel()  # whoever goes away takes the answer from nobody
    api.gate.set()
    assert {each.uid for each in await asyncio.gather(*same) if each} == {"u1"}
    assert set(await asyncio.gather(*others)) == {None}
    assert len(api.calls) == 101
    assert api.most <= 16
    assert await pods.asked("shop", "a", "u0") is None  # the name is another's now
    assert len(api.calls) == 102


@pytest.mark.parametrize(("namespace", "name"), [("..", "a"), ("shop", "../../../nodes/a"), ("shop", ""), ("a/b", "a")])
async def test_what_can_be_no_name_is_not_asked_for(api: FakeKubernetes, namespace: str, name: str) -> None:
    pods = Pods(api, clock=FakeClock())
    assert await pods.asked(namespace, name, "u1") is None
    assert await pods.asked_on_node(name, namespace=namespace, account="web") == ()
    assert api.calls == []
