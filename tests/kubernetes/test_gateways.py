"""Gateways' credentials with the real API server, a real server and agent, and a real Envoy that asks for them."""

from __future__ import annotations

import asyncio
import copy
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from cryptography import x509
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.secret.v3 import sds_pb2_grpc
from grpc import aio

from ca.kubernetes.gateways.rights import Reading, Right
from ca.kubernetes.gateways.secret import Part, SecretName, WatchedSecret
from ca.kubernetes.permissions import Permission, server_permissions
from ca.kubernetes.settings import ClusterSettings
from citadel._wire import admin_pb2, types_pb2
from citadel.clock import SystemClock
from citadel.kubernetes.client import kubernetes_client
from citadel.kubernetes.settings import ApiServerSettings
from cli.demo.envoy import find_binary
from sds.serve.resource import SECRET_TYPE_URL
from tests.agents import RunningAgent, join_by_token, running_agent
from tests.certificates import Signed, leaf
from tests.clock import FakeClock
from tests.kube_api import KubernetesServer
from tests.kube_cgroups import ANOTHER, CONTAINER, OTHER, sliced, v2, write
from tests.kube_roles import RBAC, grant
from tests.ports import free_port
from tests.secrets_of_gateways import crl, fresh, key_pem, secret, tls
from tests.servers import Server, running_server, server_settings
from tests.unit.sds.node import chain, unpacked
from tests.wire import Wire

NUMBERS: Final = count(1)
LATER: Final = datetime.now(UTC) + timedelta(hours=1)
BOOTSTRAP: Final = Path(__file__).parents[2] / "deploy" / "envoy" / "gateway.yaml"


@dataclass
class Edge:
    """A cluster with Citadel in it and a gateway on a node; `wire` is the server's way to the API server."""

    kubernetes: KubernetesServer
    namespace: str
    wire: Wire
    server: Server
    agent: RunningAgent
    proc: Path
    gateway: dict[str, Any]
    folder: Path

    async def put(self, name: str, data: dict[str, bytes], namespace: str = "") -> None:
        path = f"/api/v1/namespaces/{namespace or self.namespace}/secrets"
        await asyncio.to_thread(self.kubernetes.create, path, secret(name, data))

    async def change(self, name: str, data: dict[str, bytes]) -> None:
        path = f"/api/v1/namespaces/{self.namespace}/secrets/{name}"
        await asyncio.to_thread(self.kubernetes.patch, path, {"data": secret(name, data)["data"]})

    async def events(self, name: str) -> list[str]:
        found = await asyncio.to_thread(self.kubernetes.get, f"/api/v1/namespaces/{self.namespace}/events")
        return [each["message"] for each in found["items"] if each["involvedObject"]["name"] == name]

    def be_the_gateway(self, pid: int) -> None:
        uid = self.gateway["metadata"]["uid"]
        write(self.proc, pid, v2(f"{sliced(uid)}/cri-containerd-{CONTAINER}.scope"))

    async def told(self) -> admin_pb2.KubernetesStatus:
        return (await self.server.status()).kubernetes[0]

    async def reports(self) -> list[types_pb2.ResourceReport]:
        agents = (await self.server.status()).agents
        return [each for agent in agents for stream in agent.streams for each in stream.resources]

    @asynccontextmanager
    async def fetching(self) -> AsyncIterator[Callable[..., Awaitable[dict[str, Any]]]]:
        """This process asks, as if it ran in the gateway's pod."""
        self.be_the_gateway(os.getpid())
        async with aio.insecure_channel(f"unix:{self.agent.settings.socket}") as channel:
            stub = sds_pb2_grpc.SecretDiscoveryServiceStub(channel)

            async def fetch(*names: str) -> dict[str, Any]:
                request = discovery_pb2.DiscoveryRequest(type_url=SECRET_TYPE_URL, resource_names=names)
                answer = await stub.FetchSecrets(request, timeout=20)
                return {found.name: found for found in map(unpacked, answer.resources)}

            yield fetch


async def until(what: str, holds: Callable[[], Awaitable[Any]], *, seconds: float = 20) -> Any:
    try:
        async with asyncio.timeout(seconds):
            while not (found := await holds()):
                await asyncio.sleep(0.02)
            return found
    except TimeoutError:
        raise AssertionError(f"not within {seconds} s: {what}") from None


@pytest.fixture
async def edge(kubernetes: KubernetesServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Edge]:
    name = f"gwy-{next(NUMBERS)}"
    parts = {
        "joining": {"service_accounts": [f"{name}/citadel-agent"]},
        "workloads": {"namespaces": {"include": [name]}},
        "gateways": {"namespaces": {"include": [name, f"{name}-other"]}},
    }
    gateway = await asyncio.to_thread(install, kubernetes, name)
    needed = server_permissions(ClusterSettings.model_validate({"name": "c1", **parts}))
    await asyncio.to_thread(grant, kubernetes, f"{name}/citadel", needed, f"{name}-citadel")
    read = Permission(group="", resource="secrets", verbs=("get",), setting="", lacking="", namespaces=(name,))
    await asyncio.to_thread(grant, kubernetes, f"{name}/gateway", [read], f"{name}-gateway")
    token = await asyncio.to_thread(
        lambda: kubernetes.token(name, "citadel", audience="https://kubernetes.default.svc")
    )
    wire = Wire(kubernetes.port)
    address = f"https://127.0.0.1:{await wire.start()}"
    kubeconfig = kubernetes.kubeconfig(tmp_path / "kubeconfig", token, address=address)
    clusters = [{"name": "c1", "api": {"kubeconfig": str(kubeconfig)}, **parts}]
    proc = tmp_path / "proc"
    write(proc, "self", v2(f"{sliced(OTHER)}/cri-containerd-{ANOTHER}.scope"))
    monkeypatch.setenv("NODE_NAME", name)
    try:
        async with running_server(server_settings(tmp_path, kubernetes={"clusters": clusters})) as server:
            await join(kubernetes, name, server, tmp_path / "agent" / "data")
            its = {"api": {"kubeconfig": str(kubernetes.kubeconfig(tmp_path / "agents"))}}
            async with running_agent(server, tmp_path / "agent", kubernetes=its, proc=proc) as agent:
                yield Edge(kubernetes, name, wire, server, agent, proc, gateway, tmp_path)
    finally:
        await wire.close()


def install(kubernetes: KubernetesServer, name: str) -> dict[str, Any]:
    """Namespaces, service accounts, the node of the same name, and the gateway's pod there."""
    for namespace in (name, f"{name}-other"):
        kubernetes.namespace(namespace)
    for account in ("citadel", "citadel-agent", "gateway"):
        kubernetes.account(name, account)
    kubernetes.node(name)
    return kubernetes.pod(name, "gateway-1", account="gateway", node=name)


async def join(kubernetes: KubernetesServer, name: str, server: Server, data_dir: Path) -> None:
    """Have the identity of the node's agent, by the token of its pod."""

    def token() -> str:
        pod = kubernetes.pod(name, "agent-1", account="citadel-agent", node=name)
        return kubernetes.token(name, "citadel-agent", audience="citadel", pod=pod)

    await join_by_token(server, data_dir, cluster="c1", token=await asyncio.to_thread(token))


def bootstrap(edge: Edge, *, simple: int, mutual: int) -> dict[str, Any]:
    """`deploy/envoy/gateway.yaml`, which answers by itself, and asks for a certificate on a second listener."""
    made: dict[str, Any] = yaml.safe_load(BOOTSTRAP.read_text())
    made["admin"]["address"]["socket_address"]["port_value"] = free_port()
    listener, (workload, agent) = made["static_resources"]["listeners"][0], made["static_resources"]["clusters"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager["route_config"]["virtual_hosts"][0]["routes"][0] = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200},
    }
    other = copy.deepcopy(listener)
    other["name"] = "mutual"
    other["filter_chains"][0]["transport_socket"]["typed_config"]["require_client_certificate"] = True
    for each, port in ((listener, simple), (other, mutual)):
        each["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": port}
    made["static_resources"]["listeners"].append(other)
    workload["type"] = "STATIC"
    endpoint = workload["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    endpoint["address"]["socket_address"]["address"] = "127.0.0.1"
    pipe = agent["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["pipe"]
    pipe["path"] = str(edge.agent.settings.socket)
    return made


@asynccontextmanager
async def running_envoy(edge: Edge, config: dict[str, Any]) -> AsyncIterator[None]:
    """A real Envoy in the gateway's pod. It begins once its cgroup is there."""
    path = edge.folder / "gateway.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [str(find_binary()), "-c", str(path), "--disable-hot-restart", "--concurrency", "1", "-l", "warn"]
    with (edge.folder / "envoy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", 'read -r _; exec "$0" "$@"', *command, stdin=asyncio.subprocess.PIPE, stderr=log
        )
        assert process.stdin is not None
        edge.be_the_gateway(process.pid)
        process.stdin.write(b"\n")
        try:
            yield
        finally:
            with suppress(ProcessLookupError):  # it did not start: what it lacks stands in its log
                process.kill()
            await process.wait()


@dataclass
class Connection:
    """One TLS connection to the gateway."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def certificate(self) -> x509.Certificate:
        return x509.load_der_x509_certificate(self.writer.get_extra_info("ssl_object").getpeercert(binary_form=True))

    async def request(self) -> bytes:
        self.writer.write(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
        status = await self.reader.readline()
        await self.reader.readuntil(b"\r\n\r\n")
        return status


@asynccontextmanager
async def connected(port: int, edge: Edge, client: Signed | None = None) -> AsyncIterator[Connection]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if client is not None:
        (edge.folder / "client.pem").write_bytes(client.pem + key_pem(client))
        context.load_cert_chain(edge.folder / "client.pem")
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        yield Connection(reader, writer)
    finally:
        writer.transport.abort()


async def serial_at(port: int, edge: Edge) -> int | None:
    try:
        async with connected(port, edge) as found:
            return found.certificate.serial_number
    except OSError:
        return None


async def is_let_in(port: int, edge: Edge, client: Signed | None) -> bool:
    try:
        async with connected(port, edge, client) as found:
            return b"200" in await found.request()
    except (OSError, asyncio.IncompleteReadError):
        return False


@pytest.mark.integration
@pytest.mark.invariant(5, 9)
async def test_a_gateway_serves_what_its_secret_says_and_never_less(edge: Edge) -> None:
    (first, authority), (second, _) = fresh(), fresh(name="another CA")
    client, others_client = fresh("client", name="clients' CA"), fresh("client", name="clients' CA")
    simple, mutual = free_port(), free_port()
    await edge.put("web", tls(first, authority, **{"ca.crt": client[1].pem}))

    async def serves(expected: Signed) -> bool:
        return await serial_at(simple, edge) == expected.certificate.serial_number

    async with running_envoy(edge, bootstrap(edge, simple=simple, mutual=mutual)):
        await until("Envoy serves the secret", lambda: serves(first))
        assert await is_let_in(mutual, edge, client[0])
        assert not await is_let_in(mutual, edge, others_client[0])
        assert not await is_let_in(mutual, edge, None)
        async with connected(simple, edge) as kept:
            assert b"200" in await kept.request()
            await edge.put("web-cacert", {"cacert": others_client[1].pem})  # goes before what `web` says
            await edge.change("web", tls(second))
            await until("Envoy serves the new one", lambda: serves(second), seconds=5)
            await until("the other CA is trusted", lambda: is_let_in(mutual, edge, others_client[0]))
            assert not await is_let_in(mutual, edge, client[0])
            await revokes(edge, mutual, *others_client)
            assert b"200" in await kept.request()  # nobody was cut off
            await breaks_nothing(edge, lambda: serves(second), second)
            edge.wire.break_off()  # the API server is away
            assert await serves(second)
            async with edge.fetching() as fetch:
                found = await fetch("kubernetes://web", "default")
                assert chain(found["kubernetes://web"]) == second.pem
                assert "default" in found
            assert b"200" in await kept.request()


async def revokes(edge: Edge, port: int, client: Signed, authority: Signed) -> None:
    """A list beside the authorities refuses those on it, and nobody else."""
    other = leaf(authority, not_before=client.certificate.not_valid_before_utc, not_after=LATER)
    assert await is_let_in(port, edge, other)
    await edge.change("web-cacert", {"crl": crl(authority, client, now=datetime.now(UTC))})

    async def is_refused() -> bool:
        return not await is_let_in(port, edge, client)

    await until("the revoked client is refused", is_refused)
    assert await is_let_in(port, edge, other)


async def breaks_nothing(edge: Edge, still_serves: Callable[[], Awaitable[bool]], good: Signed) -> None:
    """Whatever is wrong with the secret: what was good is served on, and an Event on it says why."""
    other, _ = fresh()
    for data, words in (
        ({**tls(good), "tls.key": key_pem(other)}, "tls.key does not fit the certificate"),
        ({**tls(good), "tls.key": key_pem(good, password=b"x")}, "tls.key is encrypted"),
        ({**tls(good), "tls.crt": b"nothing"}, "tls.crt cannot be read"),
    ):
        await edge.change("web", data)

        async def is_told(words: str = words) -> bool:
            return any(words in message for message in await edge.events("web"))

        await until(f"an Event says: {words}", is_told)
        assert await still_serves()
    status = await edge.told()
    assert status.gateways.behind == 1
    assert any(f"secret {edge.namespace}/web: tls.crt cannot be read" in note for note in status.notes)

    async def is_reported() -> bool:
        found = [each for each in await edge.reports() if each.name == "kubernetes://web"]
        return any("tls.crt cannot be read" in each.refusal and each.serial for each in found)

    await until("the stream says why it has an older one", is_reported)
    assert not any("BEGIN" in message for message in await edge.events("web"))


async def test_who_may_not_and_what_is_not_there_takes_nothing_from_the_others(edge: Edge) -> None:
    signed, _ = fresh()
    await edge.put("web", tls(signed))
    await edge.put("theirs", tls(signed), namespace=f"{edge.namespace}-other")
    names = (
        "kubernetes://web",
        f"kubernetes://{edge.namespace}/web",
        f"kubernetes://{edge.namespace}-other/theirs",
        "kubernetes://kube-system/web",
        "kubernetes://none",
        "kubernetes://NOT A NAME",
    )
    async with edge.fetching() as fetch:
        found = await fetch("default", *names)
        assert found.keys() >= {*names[:2]}
        assert not found.keys() & {*names[2:]}
        refused = (await edge.server.status()).refused
        assert refused["credential_not_allowed"] >= 2
        assert refused["credential_unknown"] >= 1
        await edge.put("none", tls(signed))

        async def is_there() -> bool:
            return "kubernetes://none" in await fetch("kubernetes://none")

        await until("what was missing came", is_there)
        await asyncio.to_thread(edge.kubernetes.delete, f"/api/v1/namespaces/{edge.namespace}/pods/gateway-1")

        async def is_gone() -> bool:
            return not any(each.HasField("gateways") and each.gateways.good for each in [await edge.told()])

        await until("nothing is followed for a pod that is gone", is_gone, seconds=60)


async def test_a_role_for_one_secret_is_enough_and_a_right_that_is_lost_is_noticed(
    kubernetes: KubernetesServer, tmp_path: Path
) -> None:
    await asyncio.to_thread(kubernetes.namespace, "gwy-one")
    await asyncio.to_thread(kubernetes.account, "gwy-one", "reader")
    one = Permission(
        group="", resource="secrets", verbs=("get", "list", "watch"), setting="", lacking="", names=("web",),
        namespaces=("gwy-one",),
    )  # fmt: skip
    await asyncio.to_thread(grant, kubernetes, "gwy-one/reader", [one], "gwy-one")
    signed, _ = fresh()
    await asyncio.to_thread(kubernetes.create, "/api/v1/namespaces/gwy-one/secrets", secret("web", tls(signed)))
    token = await asyncio.to_thread(
        lambda: kubernetes.token("gwy-one", "reader", audience="https://kubernetes.default.svc")
    )
    changed, clock = asyncio.Event(), FakeClock()
    reader = await kubernetes_client(ApiServerSettings(kubeconfig=kubernetes.kubeconfig(tmp_path / "reader", token)))
    asker = await kubernetes_client(ApiServerSettings(kubeconfig=kubernetes.kubeconfig(tmp_path / "asker")))
    web = WatchedSecret(SecretName("gwy-one", "web"), api=reader, turn=asyncio.Semaphore(1), clock=SystemClock())
    rights = [
        Right(
            Reading("gwy-one", "reader", "gwy-one", name),
            api=asker,
            at_once=asyncio.Semaphore(8),
            draw=float,
            clock=clock,
        )
        for name in ("web", "other")
    ]
    running = [asyncio.create_task(each.run(changed.set)) for each in (web, *rights)]
    try:

        async def is_known() -> bool:
            return bool(web.exists) and all(right.is_allowed is not None for right in rights)

        await until("all is known", is_known)
        assert web.parts[Part.CERTIFICATE].good is not None
        assert [right.is_allowed for right in rights] == [True, False]
        await asyncio.to_thread(kubernetes.delete, f"{RBAC}/namespaces/gwy-one/rolebindings/gwy-one")

        async def is_lost() -> bool:
            await clock.advance(60)
            return rights[0].is_allowed is False

        await until("the lost right is noticed", is_lost)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await reader.close()
        await asker.close()
