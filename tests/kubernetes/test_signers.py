"""Certificates by objects of Kubernetes, from a real API server and a real server."""

from __future__ import annotations

import asyncio
import base64
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from citadel._wire import revocation_pb2
from citadel.svid import X509Svid, verify_x509_svid
from tests.certificates import UNNAMED_FEATURE
from tests.csrs import PrivateKey, csr, new_key
from tests.kube_api import KubernetesServer
from tests.kube_roles import restricted
from tests.servers import Server, running_server, server_settings

SIGNER = "a.test/workload"
REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"


@asynccontextmanager
async def signing(kubernetes: KubernetesServer, folder: Path, **signers: Any) -> AsyncIterator[Server]:
    """A server that answers requests as the section `signers` says, and may do that and nothing else."""
    cluster: dict[str, Any] = {"name": "main", "signers": {"signer_name": SIGNER, **signers}}
    cluster["api"] = {"kubeconfig": restricted(kubernetes, cluster, folder / "kubeconfig")}
    async with running_server(server_settings(folder, kubernetes={"clusters": [cluster]})) as server:
        yield server


def may_ask(kubernetes: KubernetesServer, namespace: str) -> None:
    """The service accounts of the namespace may make CertificateSigningRequests."""
    group = {"kind": "Group", "name": f"system:serviceaccounts:{namespace}", "apiGroup": "rbac.authorization.k8s.io"}
    rbac, name = "/apis/rbac.authorization.k8s.io/v1", f"{namespace}-asks"
    rule = {"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests"], "verbs": ["create"]}
    kubernetes.create(f"{rbac}/clusterroles", {"metadata": {"name": name}, "rules": [rule]})
    role = {"kind": "ClusterRole", "name": name, "apiGroup": "rbac.authorization.k8s.io"}
    kubernetes.create(f"{rbac}/clusterrolebindings", {"metadata": {"name": name}, "roleRef": role, "subjects": [group]})


def ask(kubernetes: KubernetesServer, name: str, token: str, der: bytes, **spec: Any) -> None:
    """Make a CertificateSigningRequest, as whose token it is."""
    pem = x509.load_der_x509_csr(der).public_bytes(Encoding.PEM)
    asked = {
        "request": base64.b64encode(pem).decode(),
        "signerName": SIGNER,
        "usages": ["digital signature", "client auth", "server auth"],
        **spec,
    }
    with kubernetes.client(token) as client:
        client.post(REQUESTS, json={"metadata": {"name": name}, "spec": asked}).raise_for_status()


async def answered(kubernetes: KubernetesServer, path: str) -> Mapping[str, Any]:
    """The status of a request, once that says something final."""
    async with asyncio.timeout(20):
        while True:
            status: Mapping[str, Any] = (await asyncio.to_thread(kubernetes.get, path)).get("status", {})
            kinds = {each["type"] for each in status.get("conditions", ())}
            if status.get("certificate") or kinds & {"Denied", "Failed", "Issued"}:
                return status
            await asyncio.sleep(0.05)


def reason(status: Mapping[str, Any]) -> tuple[str, str]:
    """The last condition: its type and why."""
    return status["conditions"][-1]["type"], status["conditions"][-1]["reason"]


def verified(server: Server, pem: str) -> X509Svid:
    """What a peer makes of the chain."""
    svid = X509Svid.from_pem(pem.encode())
    verify_x509_svid(svid.chain_der, {server.bundle.trust_domain: server.bundle}, datetime.now(UTC))
    return svid


@pytest.fixture
def shop(kubernetes: KubernetesServer, request: pytest.FixtureRequest) -> str:
    """A namespace of the test's own, with the service account web, which may ask."""
    namespace = request.node.name.removeprefix("test_").replace("_", "-")[:50].strip("-")
    kubernetes.namespace(namespace)
    kubernetes.account(namespace, "web")
    may_ask(kubernetes, namespace)
    return namespace


async def test_a_service_account_has_its_own_request_signed(
    kubernetes: KubernetesServer, shop: str, tmp_path: Path
) -> None:
    token = kubernetes.token(shop, "web", audience="https://kubernetes.default.svc")
    async with signing(kubernetes, tmp_path) as server:
        key = new_key()
        stranger = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "admin")])
        ask(kubernetes, f"{shop}-plain", token, csr(key, subject=stranger), expirationSeconds=600)
        status = await answered(kubernetes, f"{REQUESTS}/{shop}-plain")
        svid = verified(server, base64.b64decode(status["certificate"]).decode())
        assert str(svid.spiffe_id) == f"spiffe://a.test/ns/{shop}/sa/web"
        assert svid.leaf.public_key() == key.public_key()
        assert not svid.leaf.subject
        assert (svid.leaf.not_valid_after_utc - datetime.now(UTC)).total_seconds() < 600
        assert len(svid.chain_der) == 2  # the leaf and what signed it, without a root
        assert svid.serial in server.ledger.serials()

        ask(kubernetes, f"{shop}-long", token, csr(), expirationSeconds=365 * 86400)  # shortened
        status = await answered(kubernetes, f"{REQUESTS}/{shop}-long")
        svid = verified(server, base64.b64decode(status["certificate"]).decode())
        assert (svid.leaf.not_valid_after_utc - datetime.now(UTC)).total_seconds() < 86400

        odd = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(UNNAMED_FEATURE, critical=False)
        ask(kubernetes, f"{shop}-odd", token, odd.sign(new_key(), hashes.SHA256()).public_bytes(Encoding.DER))
        assert (await answered(kubernetes, f"{REQUESTS}/{shop}-odd"))["certificate"]

        ask(kubernetes, f"{shop}-authority", token, csr(names=("spiffe://a.test/admin",)))
        ask(kubernetes, f"{shop}-usages", token, csr(), usages=["cert sign"])
        ask(kubernetes, f"{shop}-person", "administrator-of-the-test", csr())
        refused = {
            each: reason(await answered(kubernetes, f"{REQUESTS}/{shop}-{each}"))
            for each in ("authority", "usages", "person")
        }
        assert refused == {
            "authority": ("Denied", "csr_wish_refused"),
            "usages": ("Denied", "csr_wish_refused"),
            "person": ("Denied", "k8s_account_not_allowed"),
        }
        ask(kubernetes, f"{shop}-others", token, csr(), signerName="other.test/workload")
        ask(kubernetes, f"{shop}-last", token, csr())
        await answered(kubernetes, f"{REQUESTS}/{shop}-last")
        assert not kubernetes.get(f"{REQUESTS}/{shop}-others").get("status")


async def test_a_restart_goes_on_and_signs_nothing_twice(
    kubernetes: KubernetesServer, shop: str, tmp_path: Path
) -> None:
    token = kubernetes.token(shop, "web", audience="https://kubernetes.default.svc")
    async with signing(kubernetes, tmp_path):
        ask(kubernetes, f"{shop}-before", token, csr())
        before = await answered(kubernetes, f"{REQUESTS}/{shop}-before")
    ask(kubernetes, f"{shop}-between", token, csr())
    async with signing(kubernetes, tmp_path) as server:
        await answered(kubernetes, f"{REQUESTS}/{shop}-between")
        assert kubernetes.get(f"{REQUESTS}/{shop}-before")["status"] == before
        assert signed_for(server, f"spiffe://a.test/ns/{shop}/sa/web") == 2


def signed_for(server: Server, spiffe_id: str) -> int:
    """How many certificates stand in the ledger for this identity."""
    with closing(sqlite3.connect(server.ledger.path)) as database:
        (count,) = database.execute("SELECT count(*) FROM ledger WHERE spiffe_id = ?", (spiffe_id,)).fetchone()
    return int(count)


async def test_what_others_approve_is_signed_or_fails(kubernetes: KubernetesServer, shop: str, tmp_path: Path) -> None:
    token = kubernetes.token(shop, "web", audience="https://kubernetes.default.svc")
    async with signing(kubernetes, tmp_path, certificate_requests="approved-by-others") as server:
        ask(kubernetes, f"{shop}-good", token, csr())
        ask(kubernetes, f"{shop}-bad", "administrator-of-the-test", csr())
        for name in (f"{shop}-good", f"{shop}-bad"):
            assert not kubernetes.get(f"{REQUESTS}/{name}").get("status")
            found = kubernetes.get(f"{REQUESTS}/{name}")
            found["status"] = {"conditions": [{"type": "Approved", "status": "True", "reason": "Person"}]}
            with kubernetes.admin as client:
                client.put(f"{REQUESTS}/{name}/approval", json=found).raise_for_status()
        good = await answered(kubernetes, f"{REQUESTS}/{shop}-good")
        verified(server, base64.b64decode(good["certificate"]).decode())
        bad = await answered(kubernetes, f"{REQUESTS}/{shop}-bad")
        assert reason(bad) == ("Failed", "k8s_account_not_allowed")


def openssl(*arguments: str | Path) -> str:
    return subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=True).stdout


class Kubelet:
    """Asks for certificates for the pods of its node, as kubelets do."""

    def __init__(self, kubernetes: KubernetesServer, name: str) -> None:
        self.kubernetes = kubernetes
        self.node = kubernetes.node(name)

    def pod(self, namespace: str, name: str) -> dict[str, Any]:
        """A pod on this node that mounts a certificate of the signer."""
        source = {"podCertificate": {"signerName": SIGNER, "keyType": "ECDSAP256", "credentialBundlePath": "svid.pem"}}
        spec = {
            "serviceAccountName": "web",
            "nodeName": self.node["metadata"]["name"],
            "containers": [{"name": "main", "image": "example.org/main:1"}],
            "volumes": [{"name": "svid", "projected": {"sources": [source]}}],
        }
        return self.kubernetes.create(
            f"/api/v1/namespaces/{namespace}/pods", {"metadata": {"name": name}, "spec": spec}
        )

    def ask(self, pod: Mapping[str, Any], name: str, key: PrivateKey, **spec: Any) -> str:
        """Ask for a certificate for `key`; the path of the request."""
        meta = pod["metadata"]
        account = self.kubernetes.get(f"/api/v1/namespaces/{meta['namespace']}/serviceaccounts/web")
        asked = {
            "signerName": SIGNER,
            "podName": meta["name"],
            "podUID": meta["uid"],
            "serviceAccountName": "web",
            "serviceAccountUID": account["metadata"]["uid"],
            "nodeName": self.node["metadata"]["name"],
            "nodeUID": self.node["metadata"]["uid"],
            "stubPKCS10Request": base64.b64encode(csr(key)).decode(),
            **spec,
        }
        path = f"/apis/certificates.k8s.io/v1/namespaces/{meta['namespace']}/podcertificaterequests"
        with self.kubernetes.admin as client:
            client.headers["Impersonate-User"] = f"system:node:{self.node['metadata']['name']}"
            client.headers["Impersonate-Group"] = "system:nodes"
            made = client.post(path, json={"metadata": {"name": name}, "spec": asked})
        assert made.is_success, made.text
        return f"{path}/{name}"


async def test_a_pod_has_a_certificate_with_no_agent(kubernetes: KubernetesServer, shop: str, tmp_path: Path) -> None:
    kubelet = Kubelet(kubernetes, f"{shop}-node")
    pod = kubelet.pod(shop, "web-1")
    async with signing(kubernetes, tmp_path) as server:
        key = new_key(ec.SECP384R1())
        status = await answered(kubernetes, kubelet.ask(pod, "one", key))
        assert reason(status) == ("Issued", "Issued")
        svid = verified(server, status["certificateChain"])
        assert str(svid.spiffe_id) == f"spiffe://a.test/ns/{shop}/sa/web"
        assert svid.leaf.public_key() == key.public_key()
        begin, refresh, end = (datetime.fromisoformat(status[each]) for each in _DATES)
        assert (begin, end) == (svid.leaf.not_valid_before_utc, svid.leaf.not_valid_after_utc)
        assert (end - begin).total_seconds() == 86400
        assert 0.4 <= (refresh - begin) / (end - begin) <= 0.6

        credentials = (
            tmp_path / "svid.pem"
        )  # as the kubelet writes it, and as the page on Kubernetes has people look at it
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        credentials.write_bytes(pem + status["certificateChain"].encode())
        (tmp_path / "bundle.pem").write_bytes(server.bundle.to_pem())
        said = openssl("x509", "-in", credentials, "-noout", "-ext", "subjectAltName", "-enddate")
        assert f"URI:spiffe://a.test/ns/{shop}/sa/web" in said
        openssl("verify", "-CAfile", tmp_path / "bundle.pem", "-untrusted", credentials, credentials)

        short = await answered(kubernetes, kubelet.ask(pod, "short", new_key(), maxExpirationSeconds=3600))
        leaf = verified(server, short["certificateChain"]).leaf
        assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds() == 3600

        odd = await answered(kubernetes, kubelet.ask(pod, "odd", ed25519.Ed25519PrivateKey.generate()))
        assert reason(odd) == ("Denied", "UnsupportedKeyType")
        wish = {"a.test/identity": "spiffe://a.test/admin"}
        wished = await answered(kubernetes, kubelet.ask(pod, "wish", new_key(), unverifiedUserAnnotations=wish))
        assert reason(wished) == ("Denied", "InvalidUnverifiedUserAnnotations")

        await server.revocations().Revoke(revocation_pb2.RevokeRequest(target=str(svid.spiffe_id), reason="test"))
        barred = await answered(kubernetes, kubelet.ask(pod, "barred", new_key()))
        assert reason(barred) == ("Failed", "identity_revoked")
        status = await server.status()
        assert status.refused["identity_revoked"] == 1
        assert "no bundle is kept in this cluster" in status.kubernetes[0].notes[0]


_DATES = ("notBefore", "beginRefreshAt", "notAfter")
