"""Callers in pods: waited for, seen whole, and never taken for others."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from citadel.errors import PermissionDenied, Reason
from citadel.kubernetes.ports import ApiUnavailable
from citadel.peer import ROOT, Caller, PeerCredentials
from citadel.selector import Selector
from sds.attest.kubernetes.attestor import UNPLACED, KubernetesAttestor
from sds.attest.kubernetes.facts import ALL_KINDS, KINDS_OF_CONTAINERS
from sds.attest.kubernetes.metrics import Waits
from sds.attest.kubernetes.pods import NodePods
from sds.serve.callers import Attestation, Callers
from tests.clock import FakeClock
from tests.kube_cgroups import ANOTHER, CONTAINER, OTHER, POD, STATIC, plain, sliced, v1, v2, write
from tests.kube_fake import FakeKubernetes
from tests.kube_pods import IMAGE, IMAGE_ID, at, pod

UID_1 = Selector("unix", "uid:1")
PID = 4711
WAIT = 5.0


class Others:
    """What is seen of the process itself; `meanwhile` happens while it is looked at."""

    def __init__(self) -> None:
        self.is_complete = True
        self.meanwhile: Callable[[], object] = lambda: None

    async def attest(self, caller: Caller, *, want_sha256: bool) -> Attestation:
        del caller, want_sha256
        self.meanwhile()
        return Attestation(selectors=frozenset({UID_1}), is_complete=self.is_complete)


class Node:
    """A node with an agent's attestor, an API server in memory, and a made-up `/proc`."""

    def __init__(self, proc: Path) -> None:
        self.proc = proc
        self.clock = FakeClock()
        self.api = FakeKubernetes()
        self.metrics = CollectorRegistry()
        self.pods = NodePods(self.api, node="node-a", clock=self.clock)
        self.others = Others()
        self.attestor = KubernetesAttestor(
            others=self.others,
            pods=self.pods,
            waits=Waits(self.metrics, clock=self.clock),
            wait=WAIT,
            proc=proc,
        )
        self.callers = Callers(
            source=None,  # type: ignore[arg-type]  # not asked here
            attestor=self.attestor,
            news=self.attestor,
            clock=self.clock,
        )
        write(proc, "self", v2(f"{sliced(OTHER)}/cri-containerd-{ANOTHER}.scope"))

    def runs(self, path: str, pid: int = PID) -> None:
        write(self.proc, pid, v2(path))

    async def attest(self, caller: Caller) -> Attestation:
        return await self.attestor.attest(caller, want_sha256=False)

    async def look(self, caller: Caller) -> Attestation:
        return await self.callers.attest(caller, wants_sha256=lambda _: False)

    def measured(self, name: str) -> float | None:
        return self.metrics.get_sample_value(name)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path)
    node.runs(f"{sliced()}/cri-containerd-{CONTAINER}.scope")
    running = asyncio.create_task(node.pods.run())
    await settled()
    assert node.pods.has_synced
    yield node
    running.cancel()
    node.attestor.close()


@pytest.fixture
def caller() -> Iterator[Caller]:
    yield from _caller(PID)


@pytest.fixture
def neighbour() -> Iterator[Caller]:
    yield from _caller(PID + 1)


def _caller(pid: int) -> Iterator[Caller]:
    """A caller whose number is made up and whose process lives: this one."""
    caller = Caller(PeerCredentials(pid, 0, 0), os.pidfd_open(os.getpid()))
    yield caller
    caller.close()


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def waiting(node: Node, call: Awaitable[Any]) -> asyncio.Task[Any]:
    """`call`, once it waits for the clock."""
    task = asyncio.ensure_future(call)
    async with asyncio.timeout(5):
        while not node.clock.is_awaited:
            await asyncio.sleep(0.001)
    return task


def of_pods(seen: Attestation) -> set[str]:
    return {str(each) for each in seen.selectors if each.type == "k8s"}


POD_LEVEL = {
    "k8s:ns:shop",
    "k8s:sa:web",
    "k8s:pod-name:web-0",
    f"k8s:pod-uid:{POD}",
    "k8s:node-name:node-a",
}
CONTAINER_LEVEL = {"k8s:container-name:main", f"k8s:container-image:{IMAGE}", f"k8s:container-image:{IMAGE_ID}"}


async def test_everything_that_is_told_of_a_pod_becomes_selectors(node: Node, caller: Caller) -> None:
    owners = [{"kind": "StatefulSet", "name": "web"}, {"kind": "Shop", "name": "main"}]
    node.api.put(at(), pod(labels={"app": "web", "example.org/tier": "front"}, ownerReferences=owners))
    await settled()
    seen = await node.attest(caller)
    assert UID_1 in seen.selectors
    assert seen.is_in_pod
    assert seen.for_entries == seen.selectors
    assert of_pods(seen) == {
        *POD_LEVEL,
        *CONTAINER_LEVEL,
        "k8s:pod-label:app:web",
        "k8s:pod-label:example.org/tier:front",
        "k8s:pod-owner:StatefulSet:web",
        "k8s:pod-owner:Shop:main",
    }
    assert (seen.is_complete, seen.unseen, seen.trouble) == (True, frozenset(), "")
    assert seen.place == "pod shop/web-0, container main"


@pytest.mark.parametrize("name", ["setup", "debug"])
async def test_containers_of_every_kind_are_known(node: Node, caller: Caller, name: str) -> None:
    node.api.put(at(), pod(containers={"main": ANOTHER, name: CONTAINER}))
    await settled()
    assert {f"k8s:container-name:{name}", f"k8s:container-image:example.org/{name}:1"} < of_pods(
        await node.attest(caller)
    )


async def test_a_container_that_was_not_told_yet_leaves_the_rest_to_be_seen(node: Node, caller: Caller) -> None:
    node.api.put(at(), pod(containers={}))
    await settled()
    early = await node.look(caller)
    assert of_pods(early) == POD_LEVEL
    assert (early.is_complete, early.unseen) == (False, KINDS_OF_CONTAINERS)
    assert "which container" in early.trouble
    wake = asyncio.Event()
    node.callers.wake_at_change(wake, early)
    node.api.put(at(), pod())
    await asyncio.wait_for(wake.wait(), 1)
    late = await node.look(caller)
    assert of_pods(late) == POD_LEVEL | CONTAINER_LEVEL
    assert late.is_complete


async def test_a_new_pod_is_waited_for_and_seen_at_once_when_it_is_told(node: Node, caller: Caller) -> None:
    looking = await waiting(node, node.attest(caller))
    assert not looking.done()
    node.api.put(at(), pod())
    assert of_pods(await asyncio.wait_for(looking, 5)) == POD_LEVEL | CONTAINER_LEVEL
    assert node.clock.monotonic() == 0
    assert node.measured("citadel_agent_pods_unseen_total") == 0


async def test_a_pod_that_nobody_tells_of_is_not_guessed(node: Node, caller: Caller) -> None:
    looking = await waiting(node, node.look(caller))
    await node.clock.advance(WAIT)
    seen = await asyncio.wait_for(looking, 5)
    assert seen.selectors == {UID_1}
    assert (seen.is_in_pod, seen.for_entries) == (True, frozenset())
    assert (seen.is_complete, seen.unseen) == (False, ALL_KINDS)
    assert POD in seen.trouble
    assert node.measured("citadel_agent_pods_unseen_total") == 1
    # The same connection does not wait again, and is woken when the pod comes after all.
    wake = asyncio.Event()
    node.callers.wake_at_change(wake, seen)
    assert (await asyncio.wait_for(node.attest(caller), 5)).selectors == {UID_1}
    node.api.put(at(), pod())
    await asyncio.wait_for(wake.wait(), 1)
    assert of_pods(await node.look(caller)) == POD_LEVEL | CONTAINER_LEVEL


async def test_while_the_api_server_is_away_known_pods_stay_and_new_ones_wait(
    node: Node, caller: Caller, neighbour: Caller
) -> None:
    node.api.put(at(), pod())
    node.runs(f"{plain(OTHER)}/{ANOTHER}", neighbour.credentials.pid)
    await settled()
    node.api.fails = ApiUnavailable("away")
    node.api.break_watches()
    await settled()
    assert of_pods(await node.attest(caller)) == POD_LEVEL | CONTAINER_LEVEL
    looking = asyncio.ensure_future(node.attest(neighbour))
    while not looking.done():
        await node.clock.advance(1)
        await asyncio.sleep(0.001)
    assert (await looking).unseen == ALL_KINDS


async def test_what_changes_at_a_pod_is_seen_on_open_connections(node: Node, caller: Caller) -> None:
    node.api.put(at(), pod(labels={"app": "web"}))
    await settled()
    early = await node.look(caller)
    wake = asyncio.Event()
    node.callers.wake_at_change(wake, early)
    node.api.put(at(), pod(labels={"app": "old"}))
    await asyncio.wait_for(wake.wait(), 1)
    assert of_pods(await node.look(caller)) == POD_LEVEL | CONTAINER_LEVEL | {"k8s:pod-label:app:old"}
    # What is of no interest changes nothing, and wakes nobody.
    wake.clear()
    node.api.put(at(), {**pod(labels={"app": "old"}), "status": {**pod()["status"], "phase": "Running"}})
    await settled()
    assert not wake.is_set()
    node.callers.wake_at_change(wake, None)
    node.api.put(at(), pod())
    await settled()
    assert not wake.is_set()


@pytest.mark.parametrize("is_complete", [True, False])
async def test_a_process_whose_pod_was_deleted_is_served_nothing_more(
    node: Node, caller: Caller, *, is_complete: bool
) -> None:
    node.others.is_complete = is_complete
    node.api.put(at(), pod())
    await settled()
    early = await node.look(caller)
    wake = asyncio.Event()
    node.callers.wake_at_change(wake, early)
    node.api.drop(at())
    await asyncio.wait_for(wake.wait(), 1)
    seen = await asyncio.wait_for(node.look(caller), 1)  # and is not waited for
    assert seen.selectors == {UID_1}
    assert (seen.is_in_pod, seen.for_entries) == (True, frozenset())
    assert seen.is_complete is is_complete
    assert seen.unseen == ALL_KINDS
    assert "was deleted" in seen.trouble
    assert node.measured("citadel_agent_pods_unseen_total") == 0


async def test_a_process_of_the_host_is_none_of_a_pod(node: Node, caller: Caller) -> None:
    node.api.put(at(), pod())
    node.runs("/system.slice/nginx.service")
    await settled()
    seen = await node.attest(caller)
    assert seen == Attestation(selectors=frozenset({UID_1}))
    assert seen.for_entries == {UID_1}


async def test_a_pod_in_the_pid_namespace_of_the_host_or_of_another_pod_is_itself(
    node: Node, caller: Caller, neighbour: Caller
) -> None:
    """Pids say nothing of pods: the cgroup of each process does."""
    node.api.put(at(), pod())
    node.api.put(at("host-0"), pod("host-0", uid=OTHER, containers={"main": ANOTHER}))
    node.runs(f"{sliced(OTHER)}/cri-containerd-{ANOTHER}.scope", neighbour.credentials.pid)
    await settled()
    assert "k8s:pod-name:web-0" in of_pods(await node.attest(caller))
    assert "k8s:pod-name:host-0" in of_pods(await node.attest(neighbour))


async def test_a_cgroup_whose_name_holds_a_line_of_another_pod_is_in_its_own(node: Node, caller: Caller) -> None:
    node.api.put(at(), pod())
    node.api.put(at("other"), pod("other", uid=OTHER, containers={"main": ANOTHER}))
    await settled()
    theirs = f"0::{sliced(OTHER)}/cri-containerd-{ANOTHER}.scope"
    node.runs(f"{sliced()}/cri-containerd-{CONTAINER}.scope/x\r{theirs}")
    assert "k8s:pod-name:web-0" in of_pods(await node.attest(caller))


async def test_a_process_that_moves_meanwhile_is_refused(node: Node, caller: Caller) -> None:
    node.api.put(at(), pod())
    node.api.put(at("other"), pod("other", uid=OTHER, containers={"main": ANOTHER}))
    await settled()
    node.others.meanwhile = lambda: node.runs(f"{sliced(OTHER)}/cri-containerd-{ANOTHER}.scope")
    with pytest.raises(PermissionDenied, match="moved") as refused:
        await node.attest(caller)
    assert refused.value.reason is Reason.POD_UNSEEN
    # Within its own container it may.
    node.others.meanwhile = lambda: node.runs(f"{sliced(OTHER)}/cri-containerd-{ANOTHER}.scope/init.scope")
    assert "k8s:pod-name:other" in of_pods(await node.attest(caller))


async def test_a_process_that_ended_meanwhile_is_refused(node: Node, caller: Caller) -> None:
    """Its number may be another's by now, whose cgroup was read."""
    node.api.put(at(), pod())
    await settled()
    node.others.meanwhile = caller.close
    with pytest.raises(PermissionDenied) as refused:
        await node.attest(caller)
    assert refused.value.reason is Reason.CALLER_UNKNOWN


async def test_a_process_whose_cgroup_cannot_be_read_is_refused(node: Node, neighbour: Caller) -> None:
    with pytest.raises(PermissionDenied, match="hostPID") as refused:
        await node.attest(neighbour)
    assert refused.value.reason is Reason.POD_UNSEEN


@pytest.mark.parametrize(
    ("cgroups", "party"),
    [
        (v2(f"{sliced()}/cri-containerd-{CONTAINER}.scope"), POD),  # root of a container is root of nothing else
        (v2(f"{plain()}/{ANOTHER}/below"), POD),
        (v2(f"{sliced(OTHER)}/cri-containerd-{ANOTHER}.scope"), OTHER),
        (v2("/system.slice/kubelet.service"), ROOT),
        (v1(f"{plain()}/{CONTAINER}", memory=f"{plain(OTHER)}/{ANOTHER}"), UNPLACED),
        (v2(f"/user.slice/user-1.slice{sliced()}/cri-containerd-{CONTAINER}.scope"), UNPLACED),
    ],
)
async def test_limits_count_a_caller_with_its_pod_known_or_not(
    node: Node, caller: Caller, cgroups: str, party: str | int
) -> None:
    write(node.proc, PID, cgroups)
    assert await node.attestor.party_of(caller) == party


async def test_a_caller_whose_cgroup_cannot_be_read_is_counted_all_the_same(node: Node, neighbour: Caller) -> None:
    assert await node.attestor.party_of(neighbour) == UNPLACED


async def test_a_process_in_two_pods_at_once_is_refused(node: Node, caller: Caller) -> None:
    node.api.put(at(), pod())
    await settled()
    write(node.proc, PID, v1(f"{plain()}/{CONTAINER}", memory=f"{plain(OTHER)}/{ANOTHER}"))
    with pytest.raises(PermissionDenied) as refused:
        await node.attest(caller)
    assert refused.value.reason is Reason.POD_UNSEEN


class TestPodsThatKubeletRunsByItself:
    MIRROR = pod(
        uid="11111111-2222-3333-4444-555555555555",
        account="",
        annotations={"kubernetes.io/config.mirror": STATIC, "kubernetes.io/config.hash": STATIC},
        ownerReferences=[{"kind": "Node", "name": "node-a", "controller": True}],
    )

    @pytest.fixture(autouse=True)
    def runs(self, node: Node) -> None:
        node.runs(f"{sliced(STATIC)}/cri-containerd-{CONTAINER}.scope")

    async def test_they_are_known_by_their_mirror_and_named_by_its_uid(self, node: Node, caller: Caller) -> None:
        node.api.put(at(), self.MIRROR)
        await settled()
        seen = of_pods(await node.attest(caller))
        assert "k8s:pod-uid:11111111-2222-3333-4444-555555555555" in seen
        assert not any(each.startswith("k8s:sa:") for each in seen)

    @pytest.mark.parametrize(
        "change",
        [
            {"spec": {**MIRROR["spec"], "serviceAccountName": "web"}},
            {"metadata": {**MIRROR["metadata"], "ownerReferences": []}},
            {"metadata": {**MIRROR["metadata"], "annotations": {"kubernetes.io/config.hash": STATIC}}},
        ],
        ids=["with a service account", "of no node", "not marked"],
    )
    async def test_what_does_not_look_like_a_mirror_is_none(
        self, node: Node, caller: Caller, change: dict[str, Any]
    ) -> None:
        node.api.put(at(), {**self.MIRROR, **change})
        await settled()
        looking = await waiting(node, node.attest(caller))
        await node.clock.advance(WAIT)
        assert not of_pods(await looking)

    async def test_two_that_say_so_are_both_not_believed(self, node: Node, caller: Caller) -> None:
        node.api.put(at(), self.MIRROR)
        node.api.put(at("forged"), {**self.MIRROR, "metadata": {**self.MIRROR["metadata"], "name": "forged"}})
        await settled()
        looking = await waiting(node, node.attest(caller))
        await node.clock.advance(WAIT)
        assert not of_pods(await looking)

    async def test_a_pod_that_has_this_uid_itself_is_believed_before_any_mirror(
        self, node: Node, caller: Caller
    ) -> None:
        real = pod("real", uid=STATIC)
        node.api.put(at(), self.MIRROR)
        node.api.put(at("real"), real)
        await settled()
        assert "k8s:pod-name:real" in of_pods(await node.attest(caller))


async def test_names_that_no_entry_could_ask_for_are_left_out(node: Node, caller: Caller) -> None:
    node.api.put(at(), pod(labels={"app": "web", "odd": "a\nb", "empty": ""}))
    await settled()
    seen = of_pods(await node.attest(caller))
    assert {each for each in seen if "pod-label" in each} == {"k8s:pod-label:app:web", "k8s:pod-label:empty:"}


async def test_a_thousand_callers_of_new_pods_cost_no_call(node: Node) -> None:
    pids = range(10_000, 11_000)
    uids = [f"00000000-0000-0000-0000-{number:012d}" for number in range(250)]
    callers = [caller for pid in pids for caller in [Caller(PeerCredentials(pid, 0, 0), os.pidfd_open(os.getpid()))]]
    for number, pid in enumerate(pids):
        node.runs(f"{sliced(uids[number % 250])}/cri-containerd-{CONTAINER}.scope", pid)
    before = len(node.api.calls)
    looking = asyncio.gather(*(node.attest(caller) for caller in callers))
    await settled()
    for number, uid in enumerate(uids):
        node.api.put(at(f"p{number}"), pod(f"p{number}", uid=uid))
    seen = await asyncio.wait_for(looking, 30)
    assert len(node.api.calls) == before
    for number, each in enumerate(seen):
        assert f"k8s:pod-name:p{number % 250}" in of_pods(each)
    for caller in callers:
        caller.close()


async def test_equal_attestations_are_told_apart_by_their_pods(node: Node, caller: Caller) -> None:
    """Two callers that look alike share one value; what it was made of is a part of it."""
    node.api.put(at(), pod())
    await settled()
    seen = await node.attest(caller)
    assert seen == await node.attest(caller)
    assert seen != replace(seen, basis=None)
