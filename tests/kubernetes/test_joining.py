"""Agents that join by Kubernetes: a real server, real agents and a real API server."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import structlog
import yaml
from grpc import aio

from citadel._wire import bootstrap_pb2
from citadel.reserved import server_id
from cli.agent_process import run_agent
from sds.link.identity import IdentityFile
from sds.settings import AgentSettings
from tests.agents import sds_stream_at
from tests.csrs import csr, new_key
from tests.kube_api import KubernetesServer, running_kubernetes
from tests.kubernetes.test_tokens import signed_by
from tests.ports import free_port
from tests.servers import (
    Member,
    Server,
    Stream,
    connected,
    http_status,
    reason_of,
    refusal,
    running_server,
    server_settings,
    synced,
)
from tests.wire import Wire

Pod = Mapping[str, Any]
Code = grpc.StatusCode
BACKOFF = {"initial": "20ms", "maximum": "500ms"}


async def until(what: str, holds: Callable[[], Awaitable[bool]], *, seconds: float = 20) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not await holds():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"within {seconds} s it did not come true that {what}") from None


@dataclass
class Cluster:
    """A namespace of its own in a real cluster, with the service account of agents."""

    kubernetes: KubernetesServer
    namespace: str

    def __post_init__(self) -> None:
        self.kubernetes.namespace(self.namespace)
        self.kubernetes.account(self.namespace, "agent")

    def section(self, name: str, kubeconfig: Path) -> dict[str, Any]:
        """A cluster as the server's settings name it."""
        joining = {"service_accounts": [f"{self.namespace}/agent"]}
        return {"name": name, "api": {"kubeconfig": str(kubeconfig)}, "joining": joining}

    def node(self, name: str) -> str:
        self.kubernetes.node(name)
        return name

    def pod(self, name: str, node: str, account: str = "agent") -> Pod:
        return self.kubernetes.pod(self.namespace, name, account=account, node=node)

    def newer_pod(self, name: str, than: Pod, node: str) -> Pod:
        """A pod of a later second: the API server tells no finer."""
        while (made := self.pod(name, node))["metadata"]["creationTimestamp"] == than["metadata"]["creationTimestamp"]:
            self.drop(made)
        return made

    def drop(self, pod: Pod) -> None:
        self.kubernetes.delete(f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}")

    def token(self, pod: Pod | None, *, audience: str = "citadel", account: str = "agent") -> str:
        return self.kubernetes.token(self.namespace, account, audience=audience, pod=pod)


class Node:
    """An agent in its pod, with the files that kubelet mounts there."""

    def __init__(self, folder: Path, server: Server, cluster: str = "c1") -> None:
        folder.mkdir(mode=0o700)
        self.folder, self.server = folder, server
        self.written = {
            "trust_domain": "a.test",
            "data_dir": str(folder / "data"),
            "socket": str(folder / "public" / "agent.sock"),
            "admin_socket": str(folder / "admin.sock"),
            "reconnect": BACKOFF,
            "probes": f"127.0.0.1:{free_port()}",
            "join": {
                "servers": [str(server.settings.listen.bootstrap)],
                "bundle_file": str(folder / "bundle.pem"),
                "k8s_psat": {"cluster": cluster, "token_file": str(folder / "token")},
            },
        }
        self.settings = AgentSettings.model_validate(self.written)

    def mount(self, token: str) -> None:
        (self.folder / "token").write_text(token)
        (self.folder / "bundle.pem").write_bytes(self.server.bundle.to_pem())

    async def is_ready(self) -> bool:
        try:
            return (await http_status(self.settings.probes, "/ready"))[1].startswith('{"status":"ready"')
        except OSError:
            return False

    async def has_expired(self) -> bool:
        found = IdentityFile(self.settings.data_dir).load(self.settings.trust_domain)
        return found is not None and found.svid.not_after < datetime.now(UTC)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        task = asyncio.create_task(run_agent(self.settings, stop=stop))
        try:
            yield
        finally:
            stop.set()
            async with asyncio.timeout(10):
                await task


@asynccontextmanager
async def process(folder: Path, name: str, written: Mapping[str, Any]) -> AsyncIterator[asyncio.subprocess.Process]:
    """`citadel NAME run`, until the block ends."""
    config = folder / f"{name}.yaml"
    config.write_text(yaml.safe_dump(dict(written)))
    with (folder / f"{name}.log").open("wb") as log:
        running = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("citadel"), name, "run", "--config", config, stdout=log, stderr=log
        )
    try:
        yield running
    finally:
        running.terminate()
        assert await asyncio.wait_for(running.wait(), 20) == 0


def audited(server: Server, what: str) -> list[tuple[str, str, str]]:
    """Target, why, and reason of each act of this kind."""
    with closing(sqlite3.connect(server.settings.data_dir / "citadel.db")) as database:
        query = "SELECT target, why, reason FROM audit WHERE what = ? ORDER BY number"
        return [(target, why, reason or "") for target, why, reason in database.execute(query, (what,))]


async def join(server: Server, token: str, *, cluster: str = "c1") -> Member:
    key = new_key()
    request = bootstrap_pb2.JoinKubernetesRequest(cluster=cluster, token=token, csr=csr(key))
    answer = await server.bootstrap().JoinKubernetes(request)
    return Member(key, tuple(answer.chain), answer.spiffe_id)


async def outcome(call: Awaitable[Any]) -> str:
    """The reason code of a call that may be refused; empty where it is not."""
    try:
        await call
    except aio.AioRpcError as error:
        return reason_of(error)
    return ""


async def to_its_end(stream: Stream) -> None:
    async with asyncio.timeout(5):
        while await stream.call.read() is not aio.EOF:
            pass
        await stream.call.wait_for_connection()


async def follows(server: Server) -> bool:
    return (await server.status()).kubernetes[0].pods_known


async def test_an_agent_joins_by_the_token_of_its_pod(kubernetes: KubernetesServer, tmp_path: Path) -> None:
    cluster = Cluster(kubernetes, "joins")
    section = {"clusters": [cluster.section("c1", kubernetes.kubeconfig(tmp_path / "kubeconfig"))]}
    settings = server_settings(tmp_path, kubernetes=section)
    listen = settings.listen
    written = {
        "trust_domain": "a.test",
        "data_dir": str(settings.data_dir),
        "keys": {"kek_file": str(settings.keys.kek_file)},
        "listen": {name: str(getattr(listen, name)) for name in ("bootstrap", "agents", "probes", "admin_socket")},
        "kubernetes": section,
    }
    pod = cluster.pod("agent-x", cluster.node("joins-1"))
    async with process(tmp_path, "server", written):
        server = await connected(settings)
        try:
            # An alias for all nodes of the cluster, and a workload of whichever of them.
            fleet = await server.entry("/fleet", str(server_id(settings.trust_domain)), "node:k8s-cluster:c1")
            await server.entry("/web", fleet.spiffe_id, f"unix:uid:{tmp_path.stat().st_uid}")
            node = Node(tmp_path / "node", server)
            node.mount(cluster.token(pod))
            async with process(node.folder, "agent", node.written):
                await until("the agent is ready", node.is_ready)
                async with sds_stream_at(node.settings.socket, "default") as stream:
                    assert (await stream.next()).resources
            (agent,) = (await server.status()).agents
            assert agent.spiffe_id == "spiffe://a.test/citadel/agent/k8s_psat/c1/joins-1"
            assert audited(server, "agent.join") == [(agent.spiffe_id, "", "")]
            # Its DaemonSet is rolled out: what is on the disk of the node is the identity of a pod that is gone.
            cluster.drop(pod)
            node.mount(cluster.token(cluster.pod("agent-y", "joins-1")))
            async with node.running():
                await until("the agent in the other pod is ready", node.is_ready)
                async with sds_stream_at(node.settings.socket, "default") as stream:
                    assert (await stream.next()).resources
            assert audited(server, "agent.join") == [(agent.spiffe_id, "", "")] * 2
            assert audited(server, "agent.evict") == []
        finally:
            await server.close()


async def test_each_bad_token_is_refused_with_its_reason_and_audited(
    kubernetes: KubernetesServer, tmp_path: Path
) -> None:
    cluster = Cluster(kubernetes, "refused")
    kubernetes.account("refused", "other")
    kubeconfig = kubernetes.kubeconfig(tmp_path / "kubeconfig")
    settings = server_settings(tmp_path, kubernetes={"clusters": [cluster.section("c1", kubeconfig)]})
    node = cluster.node("refused-1")
    pod, of_other = cluster.pod("agent-x", node), cluster.pod("other", node, account="other")
    gone, nowhere = cluster.pod("gone", node), cluster.pod("nowhere", "")
    account = kubernetes.get("/api/v1/namespaces/refused/serviceaccounts/agent")
    async with running_server(settings) as server:
        await until("pods are followed", lambda: follows(server))
        of_gone = cluster.token(gone)
        await join(server, of_gone)  # the API server repeats for 10 s that this one is good
        cluster.drop(gone)
        ended = datetime.now(UTC) - timedelta(minutes=1)
        table = {
            "another audience": (cluster.token(pod, audience="other"), "k8s_token_audience"),
            "expired": (signed_by(kubernetes, pod, account, exp=ended), "k8s_token_expired"),
            "of nobody's making": (cluster.token(pod)[:-8] + "AAAAAAAA", "k8s_token_refused"),
            "of another service account": (cluster.token(of_other, account="other"), "k8s_account_not_allowed"),
            "bound to no pod": (cluster.token(None), "k8s_pod_unknown"),
            "of a pod without a node": (cluster.token(nowhere), "k8s_pod_unknown"),
        }
        for what, (token, reason) in table.items():
            code = Code.PERMISSION_DENIED if reason == "k8s_account_not_allowed" else Code.UNAUTHENTICATED
            assert (what, *await refusal(join(server, token))) == (what, code, reason)
        assert await refusal(join(server, cluster.token(pod), cluster="c2")) == (
            Code.FAILED_PRECONDITION,
            "k8s_cluster_unknown",
        )

        async def of_gone_is_refused() -> bool:
            return await outcome(join(server, of_gone)) in {"k8s_pod_unknown", "k8s_token_refused"}

        await until("the token of a deleted pod is refused", of_gone_is_refused, seconds=5)
        expected = {reason for _, reason in table.values()} | {"k8s_cluster_unknown"}
        assert expected <= set((await server.status()).refused)

        async def all_audited() -> bool:
            return expected <= {reason for _, _, reason in audited(server, "/citadel.v1.Bootstrap/JoinKubernetes")}

        await until("they are in the audit log", all_audited)
        # Nothing was let in by them, and a good one is.
        member = await join(server, cluster.token(pod))
        async with synced(server, member) as stream:
            assert (await stream.next()).snapshot


async def test_each_cluster_speaks_for_its_own_pods_alone(kubernetes: KubernetesServer, tmp_path: Path) -> None:
    (folder := tmp_path / "second").mkdir()
    with running_kubernetes(folder) as second:
        one, two = Cluster(kubernetes, "both"), Cluster(second, "both")
        sections = [
            one.section("c1", kubernetes.kubeconfig(tmp_path / "one")),
            two.section("c2", second.kubeconfig(tmp_path / "two")),
        ]
        token_one = one.token(one.pod("agent-x", one.node("both-1")))
        token_two = two.token(two.pod("agent-x", two.node("both-1")))
        async with running_server(server_settings(tmp_path, kubernetes={"clusters": sections})) as server:
            ids = [
                (await join(server, token_one, cluster="c1")).spiffe_id,
                (await join(server, token_two, cluster="c2")).spiffe_id,
            ]
            assert ids == [f"spiffe://a.test/citadel/agent/k8s_psat/{name}/both-1" for name in ("c1", "c2")]
            for token, cluster in ((token_one, "c2"), (token_two, "c1")):
                assert await refusal(join(server, token, cluster=cluster)) == (
                    Code.UNAUTHENTICATED,
                    "k8s_token_refused",
                )


async def test_of_two_agents_on_one_node_the_newer_has_it_until_it_goes(
    kubernetes: KubernetesServer, tmp_path: Path
) -> None:
    cluster = Cluster(kubernetes, "surge")
    section = cluster.section("c1", kubernetes.kubeconfig(tmp_path / "kubeconfig"))
    name = cluster.node("surge-1")
    older = cluster.pod("agent-a", name)
    async with running_server(server_settings(tmp_path, kubernetes={"clusters": [section]})) as server:
        await until("pods are followed", lambda: follows(server))
        first, second = Node(tmp_path / "first", server), Node(tmp_path / "second", server)
        first.mount(cluster.token(older))
        with structlog.testing.capture_logs() as logs:
            async with first.running():
                await until("the first agent is ready", first.is_ready)
                newer = await asyncio.to_thread(cluster.newer_pod, "agent-b", older, name)
                second.mount(cluster.token(newer))
                async with second.running():
                    await until("the second agent is ready", second.is_ready)

                    async def has_said_why() -> bool:
                        said = {log.get("reason") for log in logs}
                        return {"agent_key_mismatch", "k8s_node_taken"} <= said

                    await until("the first one says that the second is there", has_said_why)
                    assert await second.is_ready()
                    assert not await first.is_ready()
                    agent = "spiffe://a.test/citadel/agent/k8s_psat/c1/surge-1"
                    assert audited(server, "agent.evict") == [
                        (agent, "another agent is on node surge-1, in pod surge/agent-b", "")
                    ]
                cluster.drop(newer)
                await until("the first one is back", first.is_ready)
                assert len(audited(server, "agent.evict")) == 2


async def test_a_node_that_is_deleted_and_comes_back_evicts_what_was_there(
    kubernetes: KubernetesServer, tmp_path: Path
) -> None:
    cluster = Cluster(kubernetes, "again")
    section = cluster.section("c1", kubernetes.kubeconfig(tmp_path / "kubeconfig"))
    before = cluster.pod("agent-a", cluster.node("again-1"))
    async with running_server(server_settings(tmp_path, kubernetes={"clusters": [section]})) as server:
        await until("pods are followed", lambda: follows(server))
        stale = cluster.token(before)
        member = await join(server, stale)
        async with synced(server, member) as stream:
            await stream.next()
            kubernetes.delete("/api/v1/nodes/again-1")
            uid = kubernetes.node("again-1")["metadata"]["uid"]
            # What ran on the machine that is gone is not cleared away yet, and it is no agent of the new one.
            assert await refusal(join(server, stale)) == (Code.UNAUTHENTICATED, "k8s_pod_unknown")
            cluster.drop(before)
            fresh = await join(server, cluster.token(cluster.pod("agent-b", "again-1")))
            assert fresh.spiffe_id == member.spiffe_id
            assert await outcome(to_its_end(stream)) == "agent_key_mismatch"
        assert audited(server, "agent.evict") == [
            (member.spiffe_id, f"node again-1 came back with another UID, {uid}", "")
        ]
        async with synced(server, fresh) as stream:
            assert (await stream.next()).snapshot


async def test_an_agent_waits_for_its_files_and_for_the_api_server(
    kubernetes: KubernetesServer, tmp_path: Path
) -> None:
    cluster = Cluster(kubernetes, "waits")
    wire = Wire(kubernetes.port)
    kubeconfig = kubernetes.kubeconfig(tmp_path / "kubeconfig", address=f"https://127.0.0.1:{await wire.start()}")
    pod = cluster.pod("agent-x", cluster.node("waits-1"))
    settings = server_settings(tmp_path, kubernetes={"clusters": [cluster.section("c1", kubeconfig)]})
    wire.break_off()
    async with running_server(settings) as server:
        node = Node(tmp_path / "node", server)
        with structlog.testing.capture_logs() as logs:

            async def is_said(reason: str) -> bool:
                return reason in {log.get("reason") for log in logs if log["event"].startswith("cannot join yet")}

            async with node.running():
                await until("it waits for its files", lambda: is_said("file_missing"))
                node.mount(cluster.token(pod))
                await until("it waits for the API server", lambda: is_said("kubernetes_unavailable"))
                assert (await server.status()).refused["kubernetes_unavailable"] >= 1
                wire.mend()
                await until("it has joined", node.is_ready)
        said = [log["reason"] for log in logs if log["event"].startswith("cannot join yet")]
        assert said == ["file_missing", "kubernetes_unavailable"]  # one line each, not one for each try
    await wire.close()


async def test_an_agent_comes_back_with_its_token_after_a_long_absence(
    kubernetes: KubernetesServer, tmp_path: Path
) -> None:
    cluster = Cluster(kubernetes, "absent")
    section = cluster.section("c1", kubernetes.kubeconfig(tmp_path / "kubeconfig"))
    pod = cluster.pod("agent-x", cluster.node("absent-1"))
    settings = server_settings(
        tmp_path,
        kubernetes={"clusters": [section]},
        svids={"agent_lifetime": "2s", "default_lifetime": "2s", "backdate": "1s"},
        joining={"rejoin_grace": "0s"},
    )
    async with running_server(settings) as server:
        node = Node(tmp_path / "node", server)
        node.mount(cluster.token(pod))
        async with node.running():
            await until("the agent is ready", node.is_ready)
        await until("its svid has ended", node.has_expired)
        node.mount(cluster.token(pod))
        async with node.running():  # the grace is over, so only the token helps
            await until("the agent is back", node.is_ready)
        assert len(audited(server, "agent.join")) == 2
