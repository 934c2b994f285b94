"""RBAC as the chart ships it, with a real API server's audit log: all work is allowed, all that is allowed is used."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.secret.v3 import sds_pb2_grpc
from grpc import aio

from ca.kubernetes.permissions import AGENT, Grant, grants, server_permissions
from ca.kubernetes.settings import ClusterSettings
from citadel._wire import admin_pb2
from cli.citadel_cli import citadel_cli
from sds.serve.resource import SECRET_TYPE_URL
from tests.agents import join_by_token, running_agent
from tests.chart import one, render
from tests.csrs import csr
from tests.istio_proxy import create_certificate
from tests.kube_api import ISSUER, KubernetesServer, running_kubernetes
from tests.kube_cgroups import ANOTHER, CONTAINER, OTHER, sliced, v2, write
from tests.kube_roles import RBAC
from tests.secrets_of_gateways import fresh, secret, tls
from tests.servers import Server, running_server, server_settings

SIGNER, NODE = "rbac.example.org/pods", "node-1"
SERVER, AGENTS = ("citadel", "citadel"), ("citadel-agents", "citadel-agent")  # namespace and service account
CERTIFICATES = "/apis/certificates.k8s.io/v1"
REQUESTS = f"{CERTIFICATES}/certificatesigningrequests"
CLUSTER: Final[Mapping[str, Any]] = {
    "workloads": {"service_dns_names": True},
    "istio": {},
    "bundles": {
        "config_maps": [
            {"name": "citadel-bundle", "key": "bundle.pem"},
            {"name": "istio-ca-root-cert", "key": "root-cert.pem"},
        ],
        "cluster_trust_bundle": {"name": "rbac.example.org:pods:roots", "signer_name": SIGNER},
    },
    "signers": {"signer_name": SIGNER},
    "gateways": {"namespaces": {"include": ["shop"]}},
}
# RBAC is asked for these in the course of another call, which is what stands in the audit log: whether an object that
# server-side apply makes may be created, and whether a signer may be spoken for.
ASKED_WITHIN: Final = {
    *("create configmaps", "create clustertrustbundles.certificates.k8s.io", "create events in shop"),
    *(f"{verb} signers.certificates.k8s.io {SIGNER}" for verb in ("approve", "attest", "sign")),
}
# With a certificate of the signer, which kubelet asks for.
WEB: Final = {
    "metadata": {"name": "web-1"},
    "spec": {
        "serviceAccountName": "web",
        "nodeName": NODE,
        "containers": [{"name": "main", "image": "example.org/main:1"}],
        "volumes": [
            {
                "name": "svid",
                "projected": {
                    "sources": [
                        {
                            "podCertificate": {
                                "signerName": SIGNER,
                                "keyType": "ECDSAP256",
                                "credentialBundlePath": "svid.pem",
                            }
                        }
                    ]
                },
            }
        ],
    },
}
CONFIG_MAPS: Final = ("citadel-bundle", "istio-ca-root-cert")
RARE: Final = {"get pods"}  # one that is so new that the watch of pods has not told of it
POLICY: Final = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


@dataclass(frozen=True)
class Call:
    """A call in the audit log. The name is what a list or a watch is held to as well."""

    grant: Grant
    code: int


@dataclass(frozen=True)
class Audited:
    """An API server, the settings of the cluster, and what was asked of it."""

    api: KubernetesServer
    cluster: Mapping[str, Any]
    agent: Mapping[str, Any]  # the template of its pods
    log: Path

    def calls(self, account: tuple[str, str]) -> Iterator[Call]:
        """Those of this service account about resources."""
        who = f"system:serviceaccount:{':'.join(account)}"
        for line in self.log.read_text().splitlines():
            event = json.loads(line)
            if event["user"]["username"] == who and (of := event.get("objectRef")):
                resource = "/".join(filter(None, (of["resource"], of.get("subresource"))))
                where = of.get("name", ""), of.get("namespace", "")
                yield Call(
                    Grant(event["verb"], of.get("apiGroup", ""), resource, *where),
                    event["responseStatus"]["code"],
                )

    def token(self, account: tuple[str, str]) -> str:
        """For the API server itself."""
        return self.api.token(*account, audience=ISSUER)


@pytest.fixture
def audited(tmp_path: Path) -> Iterator[Audited]:
    """With the roles and service accounts of the chart."""
    (tmp_path / "kubernetes").mkdir()
    (policy := tmp_path / "policy.yaml").write_text(yaml.safe_dump(POLICY))
    log = tmp_path / "audit.log"
    flags = (f"--audit-policy-file={policy}", f"--audit-log-path={log}")
    with running_kubernetes(tmp_path / "kubernetes", *flags) as api:
        for namespace in ("citadel", "citadel-agents", "shop"):
            api.namespace(namespace)
        documents = render({"cluster": CLUSTER})
        for each in documents:
            install(api, each)
        config = one(documents, "ConfigMap", "citadel-server")
        (cluster,) = yaml.safe_load(config["data"]["server.yaml"])["kubernetes"]["clusters"]
        yield Audited(api, cluster, one(documents, "DaemonSet", "citadel-agent")["spec"]["template"], log)


def install(api: KubernetesServer, document: dict[str, Any]) -> None:
    """Only what says who may do what."""
    kind, namespace = document["kind"], document["metadata"].get("namespace")
    if kind == "ServiceAccount":
        api.create(f"/api/v1/namespaces/{namespace}/serviceaccounts", document)
    elif kind in ("ClusterRole", "ClusterRoleBinding"):
        api.create(f"{RBAC}/{kind.lower()}s", document)
    elif kind in ("Role", "RoleBinding"):
        api.create(f"{RBAC}/namespaces/{namespace}/{kind.lower()}s", document)


async def until(what: str, holds: Callable[[], Awaitable[Any]]) -> Any:
    try:
        async with asyncio.timeout(30):
            while not (found := await holds()):
                await asyncio.sleep(0.05)
            return found
    except TimeoutError:
        raise AssertionError(f"not within 30 s: {what}") from None


async def join(audited: Audited, server: Server, data_dir: Path) -> None:
    """Have the identity of the node's agent, by the token of its pod."""
    metadata, spec = {**audited.agent["metadata"], "name": "agent-1"}, {**audited.agent["spec"], "nodeName": NODE}
    pods = f"/api/v1/namespaces/{AGENTS[0]}/pods"
    pod = audited.api.create(pods, {"metadata": metadata, "spec": spec})
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    audited.api.patch(f"{pods}/agent-1/status", {"status": ready})
    token = audited.api.token(*AGENTS, audience="citadel", pod=pod)
    await join_by_token(server, data_dir, cluster="main", token=token)


async def ask_for_certificates(audited: Audited, node: Mapping[str, Any], pod: Mapping[str, Any]) -> None:
    """By a CertificateSigningRequest, a PodCertificateRequest, and as Istio's proxies do."""
    api = audited.api
    rule = {"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests"], "verbs": ["create"]}
    api.create(f"{RBAC}/clusterroles", {"metadata": {"name": "asks"}, "rules": [rule]})
    role = {"kind": "ClusterRole", "name": "asks", "apiGroup": "rbac.authorization.k8s.io"}
    subject = {"kind": "ServiceAccount", "name": "web", "namespace": "shop"}
    api.create(f"{RBAC}/clusterrolebindings", {"metadata": {"name": "asks"}, "roleRef": role, "subjects": [subject]})
    pem = x509.load_der_x509_csr(csr()).public_bytes(Encoding.PEM)
    spec: dict[str, Any] = {"request": base64.b64encode(pem).decode(), "signerName": SIGNER}
    spec["usages"] = ["digital signature", "client auth", "server auth"]
    with api.client(audited.token(("shop", "web"))) as client:
        client.post(REQUESTS, json={"metadata": {"name": "one"}, "spec": spec}).raise_for_status()
    account = api.get("/api/v1/namespaces/shop/serviceaccounts/web")
    wanted = {
        "signerName": SIGNER,
        "podName": pod["metadata"]["name"],
        "podUID": pod["metadata"]["uid"],
        "serviceAccountName": "web",
        "serviceAccountUID": account["metadata"]["uid"],
        "nodeName": NODE,
        "nodeUID": node["metadata"]["uid"],
        "stubPKCS10Request": base64.b64encode(csr()).decode(),
    }
    path = f"{CERTIFICATES}/namespaces/shop/podcertificaterequests"
    with api.admin as client:
        client.headers["Impersonate-User"], client.headers["Impersonate-Group"] = f"system:node:{NODE}", "system:nodes"
        client.post(path, json={"metadata": {"name": "one"}, "spec": wanted}).raise_for_status()

    async def are_answered() -> bool:
        request = (await asyncio.to_thread(api.get, f"{REQUESTS}/one")).get("status", {})
        of_pod = (await asyncio.to_thread(api.get, f"{path}/one")).get("status", {})
        return "certificate" in request and "certificateChain" in of_pod

    await until("both requests are answered", are_answered)


@asynccontextmanager
async def at_work(audited: Audited, folder: Path) -> AsyncIterator[tuple[Server, aio.Channel]]:
    """A server and an agent, whose caller is this process in the gateway's pod."""
    api = audited.api
    for account in ("web", "gateway"):
        api.account("shop", account)
    read = {"metadata": {"name": "reads"}, "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]}
    api.create(f"{RBAC}/namespaces/shop/roles", read)
    subject = {"kind": "ServiceAccount", "name": "gateway", "namespace": "shop"}
    role = {"kind": "Role", "name": "reads", "apiGroup": "rbac.authorization.k8s.io"}
    bound = {"metadata": {"name": "reads"}, "roleRef": role, "subjects": [subject]}
    api.create(f"{RBAC}/namespaces/shop/rolebindings", bound)
    gateway = api.pod("shop", "gateway-1", account="gateway", node=NODE)
    certificate, _ = fresh()
    api.create("/api/v1/namespaces/shop/secrets", secret("web", tls(certificate)))
    broken = {**tls(certificate), "tls.key": tls(fresh()[0])["tls.key"]}
    api.create("/api/v1/namespaces/shop/secrets", secret("broken", broken))
    proc = folder / "proc"
    write(proc, "self", v2(f"{sliced(OTHER)}/cri-containerd-{ANOTHER}.scope"))
    write(proc, os.getpid(), v2(f"{sliced(gateway['metadata']['uid'])}/cri-containerd-{CONTAINER}.scope"))
    cluster = {**audited.cluster, "api": {"kubeconfig": str(api.kubeconfig(folder / "server", audited.token(SERVER)))}}
    of_agent = {"api": {"kubeconfig": str(api.kubeconfig(folder / "agents", audited.token(AGENTS)))}}
    async with running_server(server_settings(folder, kubernetes={"clusters": [cluster]})) as server:
        await join(audited, server, folder / "agent" / "data")
        async with (
            running_agent(server, folder / "agent", kubernetes=of_agent, proc=proc) as agent,
            aio.insecure_channel(f"unix:{agent.settings.socket}") as channel,
        ):
            yield server, channel


async def test_all_that_the_chart_grants_is_needed_and_nothing_else_is_asked_for(
    audited: Audited, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_NAME", NODE)
    node = audited.api.node(NODE)
    async with at_work(audited, tmp_path) as (server, workload):
        api = audited.api
        pod = api.create("/api/v1/namespaces/shop/pods", WEB)
        secrets = sds_pb2_grpc.SecretDiscoveryServiceStub(workload)
        names = ["default", "kubernetes://web", "kubernetes://broken"]
        request = discovery_pb2.DiscoveryRequest(type_url=SECRET_TYPE_URL, resource_names=names[:2])
        found = await secrets.FetchSecrets(request, timeout=30)
        assert len(found.resources) == 2
        stream = secrets.StreamSecrets(_forever(names[2:]))
        await ask_for_certificates(audited, node, pod)
        token = api.token("shop", "web", audience="istio-ca", pod=pod)
        await create_certificate(server.tls(server.settings.listen.bootstrap), token)

        async def everything_is_there() -> bool:
            entries = (await server.admin().ListEntries(admin_pb2.ListEntriesRequest(page_size=100))).entries
            maps = await asyncio.to_thread(api.get, "/api/v1/configmaps")
            events = await asyncio.to_thread(api.get, "/api/v1/namespaces/shop/events")
            bundles = await asyncio.to_thread(api.get, f"{CERTIFICATES}/clustertrustbundles")
            namespaces = await asyncio.to_thread(api.get, "/api/v1/namespaces")
            meant = {(each["metadata"]["name"], name) for each in namespaces["items"] for name in CONFIG_MAPS}
            kept = {(each["metadata"]["namespace"], each["metadata"]["name"]) for each in maps["items"]}
            return (
                any(each.origin == "k8s:main/shop/web-1" for each in entries)
                and meant <= kept  # in one namespace first, and where it is not yet the check warns
                and len(bundles["items"]) == 1
                and len(events["items"]) == 1
            )

        await until("entries, bundles and the Event are there", everything_is_there)
        stream.cancel()
        made = {who: list(audited.calls(who)) for who in (SERVER, AGENTS)}  # the check asks for more
        assert await asyncio.to_thread(what_the_check_says, audited, server, tmp_path) == {"good", "unknown"}
    settings = ClusterSettings.model_validate(audited.cluster)
    for who, needed in ((SERVER, grants(server_permissions(settings))), (AGENTS, grants(AGENT))):
        calls = made[who]
        assert [each for each in calls if each.code == 403] == []
        unused = {str(each) for each in needed if not any(_is_of(call.grant, each) for call in calls)}
        assert unused - (RARE if who == SERVER else set()) == (ASKED_WITHIN if who == SERVER else set())
        beyond = {str(call.grant) for call in calls if not any(_is_of(call.grant, each) for each in needed)}
        assert beyond == set()
    await asyncio.to_thread(what_is_beyond_is_denied, audited)


def what_the_check_says(audited: Audited, server: Server, folder: Path) -> set[str]:
    """All grades of `citadel-cli k8s check`, asked as the server; what only an administrator sees is unknown."""
    cluster = {**audited.cluster, "api": {"kubeconfig": str(folder / "server")}}
    config = {"trust_domain": "a.test", "data_dir": "data", "keys": {"kek_file": "kek"}}
    (file := folder / "server.yaml").write_text(json.dumps({**config, "kubernetes": {"clusters": [cluster]}}))
    words = ["--socket", str(server.settings.listen.admin_socket), "-o", "json", "k8s", "check", "-c", str(file)]
    checks = json.loads(CliRunner().invoke(citadel_cli, words).stdout)["checks"]
    assert not [each for each in checks if each["grade"] == "bad"], checks
    return {each["grade"] for each in checks}


async def _forever(names: list[str]) -> AsyncIterator[discovery_pb2.DiscoveryRequest]:
    yield discovery_pb2.DiscoveryRequest(type_url=SECRET_TYPE_URL, resource_names=names)
    await asyncio.Event().wait()


def _is_of(call: Grant, granted: Grant) -> bool:
    kind = (granted.verb, granted.group, granted.resource)
    return (
        (call.verb, call.group, call.resource) == kind
        and granted.name in ("", call.name)
        and granted.namespace in ("", call.namespace)
    )


BEYOND: Final[Mapping[tuple[str, str], list[tuple[str, str, Any]]]] = {
    SERVER: [
        ("GET", "/api/v1/namespaces/citadel/secrets", None),
        ("GET", "/api/v1/secrets", None),
        ("GET", "/api/v1/namespaces/shop/configmaps", None),
        ("GET", "/api/v1/nodes", None),
        ("POST", "/api/v1/namespaces/shop/pods", {"metadata": {"name": "mine"}}),
        ("POST", "/api/v1/namespaces/shop/serviceaccounts/web/token", {"spec": {"audiences": ["x"]}}),
        ("DELETE", "/api/v1/namespaces/shop/pods/web-1", None),
        ("DELETE", "/api/v1/namespaces/shop/configmaps/citadel-bundle", None),
        ("DELETE", "/api/v1/namespaces/shop/secrets/web", None),
        ("PATCH", f"{RBAC}/clusterroles/citadel:citadel:server", {"rules": []}),
        ("POST", f"{RBAC}/clusterrolebindings", {"metadata": {"name": "mine"}}),
        ("PATCH", "/api/v1/namespaces/shop/configmaps/others", {"data": {}}),
        ("PUT", f"{REQUESTS}/others/approval", "approved"),
        ("PUT", f"{REQUESTS}/others/status", "signed"),
    ],
    AGENTS: [
        ("GET", "/api/v1/namespaces/shop/secrets/web", None),
        ("GET", "/api/v1/services", None),
        ("GET", "/api/v1/namespaces/shop/pods/web-1", None),
        ("PATCH", "/api/v1/namespaces/shop/pods/web-1", {"metadata": {"labels": {"a": "b"}}}),
        ("POST", "/apis/authentication.k8s.io/v1/tokenreviews", {"spec": {"token": "x"}}),
        ("PATCH", "/api/v1/namespaces/shop/configmaps/citadel-bundle", {"data": {}}),
    ],
}


def what_is_beyond_is_denied(audited: Audited) -> None:
    """A sample of what neither needs; requests that name another signer among it."""
    api = audited.api
    pem = base64.b64encode(x509.load_der_x509_csr(csr()).public_bytes(Encoding.PEM)).decode()
    spec = {"request": pem, "signerName": "others.example.org/pods", "usages": ["digital signature"]}
    foreign = api.create(REQUESTS, {"metadata": {"name": "others"}, "spec": spec})
    certificate = base64.b64encode(fresh()[0].pem).decode()
    approved = {**foreign, "status": {"conditions": [{"type": "Approved", "status": "True", "reason": "x"}]}}
    bodies = {"approved": approved, "signed": {**foreign, "status": {"certificate": certificate}}}
    for account, calls in BEYOND.items():
        with api.client(audited.token(account)) as client:
            for method, path, body in calls:
                headers = {"Content-Type": "application/merge-patch+json"} if method == "PATCH" else {}
                content = bodies.get(body, body) if isinstance(body, str) else body
                answer = client.request(method, path, json=content, headers=headers)
                assert answer.status_code == 403, (account, method, path, answer.text)
