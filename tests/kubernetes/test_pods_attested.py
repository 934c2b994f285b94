"""Pods as callers of a real agent, by the word of a real API server. Only the cgroups are made up."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from prometheus_client import CollectorRegistry

from citadel._wire import agent_local_pb2, agent_local_pb2_grpc
from citadel.clock import SystemClock
from citadel.kubernetes.client import kubernetes_client
from citadel.kubernetes.observed import ObservedApi
from citadel.kubernetes.settings import ApiServerSettings
from citadel.peer import Caller, PeerCredentials
from citadel.selector import Selector
from sds.attest.kubernetes.attestor import KubernetesAttestor
from sds.attest.kubernetes.metrics import Waits
from sds.attest.kubernetes.pods import NodePods
from sds.serve.callers import Attestation
from tests.agents import running_agent, sds_stream
from tests.kube_api import KubernetesServer
from tests.kube_cgroups import ANOTHER, CONTAINER, OTHER, sliced, v2, write
from tests.kube_pods import IMAGE_ID, status
from tests.servers import http_status, reason_of, running_server, server_settings
from tests.wire import Wire
from tests.workloads import Agent, Workload, workload_at

UNSEEN = (grpc.StatusCode.UNAVAILABLE, "pod_unseen")
MOST_CONNECTIONS = 8  # of a pod
GONE = (grpc.StatusCode.PERMISSION_DENIED, "pod_unseen")


@dataclass
class Node:
    """A node of a cluster with its agent; this process is whichever pod's it is told to be."""

    kubernetes: KubernetesServer
    namespace: str
    agent: Agent
    proc: Path
    wire: Wire

    async def pod(self, name: str, **metadata: Any) -> dict[str, Any]:
        return await asyncio.to_thread(self.kubernetes.pod, self.namespace, name, node=self.namespace, **metadata)

    async def starts(self, name: str, container: str) -> None:
        """kubelet tells that the pod's container runs."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{name}/status"
        await asyncio.to_thread(self.kubernetes.patch, path, {"status": status({"main": container})})

    def be_in(self, uid: str, container: str = CONTAINER) -> None:
        write(self.proc, os.getpid(), v2(f"{sliced(uid)}/cri-containerd-{container}.scope"))

    @asynccontextmanager
    async def workload(self) -> AsyncIterator[Workload]:
        async with workload_at(self.agent.socket) as workload:
            yield workload

    async def ready(self) -> str:
        return (await http_status(self.agent.running.settings.probes, "/ready"))[1]

    async def refusal(self) -> tuple[grpc.StatusCode, str]:
        async with self.workload() as workload:
            with pytest.raises(aio.AioRpcError) as refused:
                await workload.svids().read(within=20)
        return refused.value.code(), reason_of(refused.value)

    async def flood(self) -> list[socket.socket]:
        """Connections that stay, until the agent takes no more of this pod."""
        held: list[socket.socket] = []
        while len(held) <= MOST_CONNECTIONS:
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(10)
            await asyncio.to_thread(client.connect, str(self.agent.socket))
            if not await asyncio.to_thread(client.recv, 1):  # who is let in is greeted
                client.close()
                break
            held.append(client)
        return held

    async def identities(self) -> list[str]:
        async with self.workload() as workload:
            return [svid.spiffe_id for svid in (await workload.svids().read(within=20)).svids]


@asynccontextmanager
async def running_node(
    kubernetes: KubernetesServer, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, *, wait: str = "10s"
) -> AsyncIterator[Node]:
    kubernetes.namespace(name)
    kubernetes.account(name, "default")
    proc = folder / "proc"
    write(proc, "self", v2(f"{sliced(OTHER)}/cri-containerd-{ANOTHER}.scope"))
    wire = Wire(kubernetes.port)
    kubeconfig = kubernetes.kubeconfig(folder / "kubeconfig", address=f"https://127.0.0.1:{await wire.start()}")
    monkeypatch.setenv("NODE_NAME", name)
    its = {"api": {"kubeconfig": str(kubeconfig)}, "wait": wait}
    limits = {"max_connections_per_uid": MOST_CONNECTIONS}
    try:
        async with (
            running_server(server_settings(folder)) as server,
            running_agent(server, folder / "agent", kubernetes=its, limits=limits, proc=proc) as running,
        ):
            yield Node(kubernetes, name, Agent(server, running), proc, wire)
    finally:
        await wire.close()


async def test_a_pod_gets_its_identity_from_its_first_second_to_its_last(
    kubernetes: KubernetesServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_node(kubernetes, tmp_path, monkeypatch, "attested") as node:
        known = await node.pod("known", labels={"app": "web"})
        uid = known["metadata"]["uid"]
        node.be_in(uid)
        await node.agent.entry("/of-user")  # of the node, who has the same uid
        await node.agent.entry("/of-pod", f"k8s:pod-uid:{uid}")
        await node.agent.entry("/of-label", "k8s:ns:attested", "k8s:pod-label:app:web")
        image = await node.agent.entry("/of-image", f"k8s:container-image:{IMAGE_ID}", "k8s:container-name:main")
        domain = node.agent.running.spiffe_id.trust_domain.id
        async with node.workload() as workload:
            stream = workload.svids()
            first = await stream.read()
            while len(first.svids) < 2:  # they are had one by one
                first = await stream.read()
            assert [svid.spiffe_id for svid in first.svids] == [f"{domain}/of-pod", f"{domain}/of-label"]
            # The container is told later, and what it gives comes on the open stream.
            await node.starts("known", CONTAINER)
            assert len((await stream.read()).svids) == 3
            await asyncio.to_thread(
                kubernetes.patch, "/api/v1/namespaces/attested/pods/known", {"metadata": {"labels": {"app": "old"}}}
            )
            assert [svid.spiffe_id for svid in (await stream.read()).svids] == [
                f"{domain}/of-pod",
                f"{domain}/of-image",
            ]
            await node.agent.delete(image)
            assert len((await stream.read()).svids) == 1
            explained = await explain(node)
            assert explained.place == "pod attested/known, container main"
            assert f"k8s:pod-uid:{uid}" in explained.selectors
            of_user = next(each for each in explained.entries if each.spiffe_id == f"{domain}/of-user")
            assert (of_user.for_no_pod, list(of_user.misses)) == (True, [])
            assert f"{domain}/of-user" not in explained.sds_names
            await asyncio.to_thread(kubernetes.delete, "/api/v1/namespaces/attested/pods/known")
            with pytest.raises(aio.AioRpcError) as ended:
                await stream.end()
            assert (ended.value.code(), reason_of(ended.value)) == GONE
        assert await node.refusal() == GONE
        # A pod that is told of only later: whoever calls before waits for it.
        node.wire.break_off()
        new = await node.pod("new")
        await node.agent.entry("/new", f"k8s:pod-uid:{new['metadata']['uid']}")
        node.be_in(new["metadata"]["uid"], ANOTHER)
        asking = asyncio.create_task(node.identities())
        done, _ = await asyncio.wait([asking], timeout=0.3)
        assert not done
        node.wire.mend()
        assert await asking == [f"{domain}/new"]
        # The other one, though root where this is root, takes no more of the socket than a pod's share.
        node.be_in(uid)
        held = await node.flood()
        assert 0 < len(held) <= MOST_CONNECTIONS  # some from before may not be closed yet
        node.be_in(new["metadata"]["uid"], ANOTHER)
        assert await node.identities() == [f"{domain}/new"]
        for client in held:
            client.close()
        assert '"kubernetes":"1 pods of this node"' in await node.ready()


async def test_without_the_api_server_known_pods_stay_and_new_ones_wait(
    kubernetes: KubernetesServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_node(kubernetes, tmp_path, monkeypatch, "cut-off", wait="500ms") as node:
        known = await node.pod("known")
        await node.agent.entry("/known", f"k8s:pod-uid:{known['metadata']['uid']}")
        node.be_in(known["metadata"]["uid"])
        domain = node.agent.running.spiffe_id.trust_domain.id
        assert await node.identities() == [f"{domain}/known"]
        node.wire.break_off()
        async with asyncio.timeout(10):
            while "kubernetes_unavailable" not in (ready := await node.ready()):
                await asyncio.sleep(0.02)
        assert '"status":"degraded"' in ready
        assert "1 pods are known, new ones wait" in ready
        assert await node.identities() == [f"{domain}/known"]
        new = await node.pod("new")
        await node.agent.entry("/new", f"k8s:pod-uid:{new['metadata']['uid']}")
        node.be_in(new["metadata"]["uid"])
        assert await node.refusal() == UNSEEN
        explained = await explain(node)
        assert "pod_unseen" in explained.verdict.fix
        assert new["metadata"]["uid"] in explained.trouble
        async with sds_stream(node.agent.running, "default") as proxy:
            node.wire.mend()
            assert (await proxy.next()).resources
        assert await node.identities() == [f"{domain}/new"]


async def test_a_thousand_callers_of_250_new_pods_cost_no_call(kubernetes: KubernetesServer, tmp_path: Path) -> None:
    """Beside the list and the watch by which their pods were told."""
    name = "burst"
    await asyncio.to_thread(kubernetes.namespace, name)
    await asyncio.to_thread(kubernetes.account, name, "default")
    client = await kubernetes_client(ApiServerSettings(kubeconfig=kubernetes.kubeconfig(tmp_path / "kubeconfig")))
    api = ObservedApi(client, clock=SystemClock())
    async with attesting_by(api, name, tmp_path / "proc") as (pods, attestor):
        making = [asyncio.to_thread(kubernetes.pod, name, f"p{number}", node=name) for number in range(250)]
        uids = [made["metadata"]["uid"] for made in await asyncio.gather(*making)]
        before = _reads_of_pods(kubernetes)
        callers = [caller(pid) for pid in range(10_000, 11_000)]
        for number, each in enumerate(callers):
            write(tmp_path / "proc", each.credentials.pid, v2(f"{sliced(uids[number % 250])}/{CONTAINER}"))
        looking = [attestor.attest(each, want_sha256=False) for each in callers]
        seen = await asyncio.wait_for(asyncio.gather(*looking), 30)
        for number, found in enumerate(seen):
            assert Selector("k8s", f"pod-uid:{uids[number % 250]}") in found.selectors
            callers[number].close()
        assert len(pods) == 250
        assert sum(api.calls.ended.values()) <= 2
        assert _reads_of_pods(kubernetes) == before
    await client.close()


class Others:
    """Sees nothing of processes."""

    async def attest(self, caller: Caller, *, want_sha256: bool) -> Attestation:
        del caller, want_sha256
        return Attestation(selectors=frozenset())


@asynccontextmanager
async def attesting_by(api: ObservedApi, node: str, proc: Path) -> AsyncIterator[tuple[NodePods, KubernetesAttestor]]:
    """What attests on `node`, without the rest of an agent."""
    write(proc, "self", v2("/"))
    pods = NodePods(api, node=node, clock=SystemClock())
    waits = Waits(CollectorRegistry(), clock=SystemClock())
    attestor = KubernetesAttestor(others=Others(), pods=pods, waits=waits, wait=20, proc=proc)
    running = asyncio.create_task(pods.run())
    try:
        yield pods, attestor
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        attestor.close()


def caller(pid: int) -> Caller:
    """A caller whose number is made up and whose process lives: this one."""
    return Caller(PeerCredentials(pid, 0, 0), os.pidfd_open(os.getpid()))


def _reads_of_pods(kubernetes: KubernetesServer) -> float:
    """How often the API server was asked for pods, by its own count."""
    with kubernetes.admin as client:
        lines = client.get("/metrics").text.splitlines()
    mine = [line for line in lines if line.startswith("apiserver_request_total{") and 'resource="pods"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in mine if 'verb="GET"' in line or 'verb="LIST"' in line)


async def explain(node: Node) -> agent_local_pb2.ProcessExplanation:
    async with aio.insecure_channel(f"unix:{node.agent.running.settings.admin_socket}") as channel:
        stub: Any = agent_local_pb2_grpc.AgentLocalStub(channel)  # type: ignore[no-untyped-call]  # generated
        answer: agent_local_pb2.ProcessExplanation = await stub.ExplainProcess(
            agent_local_pb2.ExplainProcessRequest(pid=os.getpid()), timeout=10
        )
        return answer
