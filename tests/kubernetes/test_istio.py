"""Istio's proxies against a real API server: who gets a certificate, for whom, and who does not."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import ssl
from collections.abc import AsyncIterator, Awaitable
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from grpc import aio

from tests.envoy_doors import door as envoy_door
from tests.envoy_doors import running_envoy
from tests.istio_proxy import Secrets, create_certificate
from tests.kube_api import ISSUER, KubernetesServer, running_kubernetes
from tests.ports import free_port
from tests.servers import Server, reason_of, refusal, running_server, server_settings

UNAUTHENTICATED, UNAVAILABLE = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE
AUDIENCE = "istio-ca"
ZTUNNEL = "istio-mesh/ztunnel"


def settings(tmp_path: Path, *clusters: tuple[str, Path, dict[str, Any]], **sections: Any) -> Any:
    known = [{"name": name, "api": {"kubeconfig": str(path)}, "istio": istio} for name, path, istio in clusters]
    return server_settings(tmp_path, kubernetes={"clusters": known}, **sections)


@pytest.fixture(scope="module")
def mesh(kubernetes: KubernetesServer) -> KubernetesServer:
    """Two namespaces with pods on two nodes."""
    for namespace, account in (("istio-shop", "web"), ("istio-shop", "db"), ("istio-mesh", "ztunnel")):
        if account != "db":
            kubernetes.namespace(namespace)
        kubernetes.account(namespace, account)
    for node in ("istio-1", "istio-2"):
        kubernetes.node(node)
    kubernetes.pod("istio-shop", "web", account="web", node="istio-1")
    kubernetes.pod("istio-shop", "db", account="db", node="istio-2")
    kubernetes.pod("istio-mesh", "ztunnel", account="ztunnel", node="istio-1")
    kubernetes.account("default", "inside")
    kubernetes.pod("default", "istio-inside", account="inside", node="istio-1")
    return kubernetes


def token_of(mesh: KubernetesServer, namespace: str, name: str, *, audience: str = AUDIENCE, **options: Any) -> str:
    pod = mesh.get(f"/api/v1/namespaces/{namespace}/pods/{name}")
    return mesh.token(namespace, pod["spec"]["serviceAccountName"], audience=audience, pod=pod, **options)


@pytest.fixture
async def server(mesh: KubernetesServer, tmp_path: Path) -> AsyncIterator[Server]:
    istio = {"trusted_node_accounts": [ZTUNNEL], "namespaces": {"exclude": ["default"]}}
    config = mesh.kubeconfig(tmp_path / "kubeconfig")
    async with running_server(settings(tmp_path, ("main", config, istio))) as running:
        yield running


def door(server: Server) -> aio.Channel:
    return server.tls(server.settings.listen.bootstrap)


async def outcome(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str] | str:
    try:
        await call
    except aio.AioRpcError as refused:
        return refused.code(), reason_of(refused)
    return "OK"


async def test_a_proxy_is_who_its_token_says_and_nobody_else(mesh: KubernetesServer, server: Server) -> None:
    channel = door(server)
    secrets = await create_certificate(channel, token_of(mesh, "istio-shop", "web"), cluster="main")
    assert secrets.identity == "spiffe://a.test/ns/istio-shop/sa/web"
    assert list(secrets.roots) == list(server.bundle.x509_authorities)

    other = token_of(mesh, "istio-shop", "web", audience="somebody")
    assert await refusal(create_certificate(channel, other)) == (UNAUTHENTICATED, "k8s_token_audience")
    assert await refusal(create_certificate(channel, "x.y.z")) == (UNAUTHENTICATED, "k8s_token_refused")
    assert await refusal(create_certificate(channel, None)) == (UNAUTHENTICATED, "k8s_token_refused")
    good = token_of(mesh, "istio-shop", "web")
    assert await refusal(create_certificate(channel, good, cluster="else")) == (UNAUTHENTICATED, "k8s_cluster_unknown")
    mesh.account("default", "outside")
    outside = mesh.token("default", "outside", audience=AUDIENCE)
    assert await refusal(create_certificate(channel, outside)) == (UNAUTHENTICATED, "k8s_account_not_allowed")


@pytest.mark.integration
async def test_two_proxies_speak_mutual_tls_with_what_they_make_of_their_answers(
    mesh: KubernetesServer, server: Server, tmp_path: Path
) -> None:
    web, db = [await create_certificate(door(server), token_of(mesh, "istio-shop", name)) for name in ("web", "db")]
    port = free_port()
    san = {"san_type": "URI", "matcher": {"exact": db.identity}}
    validation = {"trusted_ca": {"inline_string": web.roots_pem}, "match_typed_subject_alt_names": [san]}
    async with running_envoy(tmp_path, [envoy_door(port, web.key, web.chain_pem, validation)]):
        peer = await asyncio.to_thread(handshake, port, db, tmp_path)
        assert peer == web.identity
        with pytest.raises(OSError, match=r"alert|reset|EOF"):
            await asyncio.to_thread(handshake, port, web, tmp_path)  # good, and not whom it waits for


def handshake(port: int, secrets: Secrets, folder: Path) -> str:
    """Ask an Envoy something as this proxy; its identity, verified by the proxy's roots alone."""
    chain = folder / "chain.pem"
    chain.write_text(secrets.chain_pem)
    key = folder / "key.pem"
    key.write_bytes(secrets.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # it has an identity and no name
    context.load_verify_locations(cadata=secrets.roots_pem)
    context.load_cert_chain(chain, key)
    with socket.create_connection(("127.0.0.1", port), 10) as plain, context.wrap_socket(plain) as tls:
        tls.sendall(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
        answer = tls.recv(100)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise OSError("EOF")
        names: Any = (tls.getpeercert() or {}).get("subjectAltName", ())
        return str(dict(names)["URI"])


async def test_the_token_of_a_deleted_pod_is_refused_though_the_api_server_still_takes_it(
    mesh: KubernetesServer, server: Server
) -> None:
    mesh.pod("istio-shop", "short", account="web", node="istio-1")
    token, channel = token_of(mesh, "istio-shop", "short"), door(server)
    await create_certificate(channel, token)
    mesh.delete("/api/v1/namespaces/istio-shop/pods/short")
    async with asyncio.timeout(10):
        while (said := await outcome(create_certificate(channel, token))) == "OK":  # the watch may be a moment behind
            await asyncio.sleep(0.01)
    assert said == (UNAUTHENTICATED, "k8s_pod_unknown")


async def test_ztunnel_gets_the_identities_of_the_pods_on_its_node_alone(
    mesh: KubernetesServer, server: Server
) -> None:
    channel, ztunnel = door(server), token_of(mesh, "istio-mesh", "ztunnel")
    here = "spiffe://a.test/ns/istio-shop/sa/web"
    assert (await create_certificate(channel, ztunnel, impersonated=here)).identity == here
    refused = (UNAUTHENTICATED, "k8s_impersonation_refused")
    for wanted in (
        "spiffe://a.test/ns/istio-shop/sa/db",  # on the other node
        "spiffe://a.test/ns/default/sa/inside",  # on its node, in a namespace that is not admitted
        "spiffe://b.test/ns/istio-shop/sa/web",
        "spiffe://a.test/citadel/server",
        "web",
    ):
        assert await refusal(create_certificate(channel, ztunnel, impersonated=wanted)) == refused
    web, unbound = token_of(mesh, "istio-shop", "web"), mesh.token("istio-mesh", "ztunnel", audience=AUDIENCE)
    assert await refusal(create_certificate(channel, web, impersonated=here)) == refused
    assert await refusal(create_certificate(channel, unbound, impersonated=here)) == refused
    # Both names are in the audit log: who asked, and in the words for whom.
    async with asyncio.timeout(10):
        while len(found := refusals(server)) < 7:
            await asyncio.sleep(0.05)
    accounts = {f"spiffe://a.test/ns/{each}" for each in ("istio-mesh/sa/ztunnel", "istio-shop/sa/web")}
    assert {actor for actor, _ in found} == accounts
    assert any("istio-mesh/ztunnel" in words and "sa/db" in words for _, words in found)
    assert any("of the namespace default get no certificates" in words for _, words in found)


def refusals(server: Server) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(server.ledger.path)) as database:
        query = "SELECT actor, detail FROM audit WHERE reason = 'k8s_impersonation_refused'"
        return [(str(actor), str(detail)) for actor, detail in database.execute(query)]


async def test_tokens_are_checked_by_the_published_keys_and_no_call_for_each(
    mesh: KubernetesServer, tmp_path: Path
) -> None:
    mesh.create(
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        {
            "metadata": {"name": "keys-for-everybody"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "system:service-account-issuer-discovery",
            },
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:unauthenticated"}],
        },
    )
    keys = f"{mesh.address}/openid/v1/jwks"
    oidc = {"oidc": {"issuer": ISSUER, "jwks_uri": keys, "ca_file": str(mesh.ca_file)}}
    config = mesh.kubeconfig(tmp_path / "kubeconfig", "nobody")  # whoever asked the API server would be refused
    async with running_server(settings(tmp_path, ("main", config, oidc))) as server:
        channel = door(server)
        secrets = await create_certificate(channel, token_of(mesh, "istio-shop", "web"))
        assert secrets.identity == "spiffe://a.test/ns/istio-shop/sa/web"
        other = token_of(mesh, "istio-shop", "web", audience="somebody")
        assert await refusal(create_certificate(channel, other)) == (UNAUTHENTICATED, "k8s_token_audience")
        assert await refusal(create_certificate(channel, "x.y.z")) == (UNAUTHENTICATED, "k8s_token_refused")


async def test_an_api_server_that_is_away_refuses_nobody_for_good(mesh: KubernetesServer, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with running_kubernetes(tmp_path / "other") as kubernetes:
        kubernetes.namespace("shop")
        kubernetes.account("shop", "web")
        config = kubernetes.kubeconfig(tmp_path / "kubeconfig")
        istio = {"cache": "60s"}
        both = (("other", config, istio), ("main", mesh.kubeconfig(tmp_path / "main"), istio))
        async with running_server(settings(tmp_path, *both)) as server:
            channel = door(server)
            kept, fresh = (kubernetes.token("shop", "web", audience=AUDIENCE, seconds=each) for each in (3600, 7200))
            foreign = (UNAUTHENTICATED, "k8s_token_refused")
            assert await refusal(create_certificate(channel, kept, cluster="main")) == foreign
            assert await refusal(create_certificate(channel, kept)) == (UNAUTHENTICATED, "k8s_cluster_unknown")
            await create_certificate(channel, kept, cluster="other")
            kubernetes.stop_api()
            await create_certificate(channel, kept, cluster="other")
            away = (UNAVAILABLE, "kubernetes_unavailable")
            assert await refusal(create_certificate(channel, fresh, cluster="other")) == away
