"""Whatever the chart renders, a real API server takes it, and the server's namespace may enforce restricted pods."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from typing import Any

import httpx
import pytest
import yaml

from cli.workload.address import ADDRESS_VARIABLE
from tests.chart import CASES, CHART, EKS, MANIFESTS, ROOT, kube_tools, merged, namespace_of, notes, one, render
from tests.kube_api import KubernetesServer

BOOKINFO = ROOT / "deploy" / "bookinfo"
# As far as the chart uses it; that of the Prometheus Operator has more.
ENDPOINT = {"port": {"type": "string"}, "path": {"type": "string"}, "interval": {"type": "string"}}
SELECTOR = {
    "type": "object",
    "properties": {"matchLabels": {"type": "object", "additionalProperties": {"type": "string"}}},
}
SERVICE_MONITOR = {
    "metadata": {"name": "servicemonitors.monitoring.coreos.com"},
    "spec": {
        "group": "monitoring.coreos.com",
        "scope": "Namespaced",
        "names": {"kind": "ServiceMonitor", "plural": "servicemonitors", "singular": "servicemonitor"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "required": ["endpoints", "selector"],
                                "properties": {
                                    "selector": SELECTOR,
                                    "endpoints": {
                                        "type": "array",
                                        "items": {"type": "object", "properties": ENDPOINT},
                                    },
                                },
                            }
                        },
                    }
                },
            }
        ],
    },
}


@pytest.fixture(scope="module")
def prepared(kubernetes: KubernetesServer) -> KubernetesServer:
    """With the kind ServiceMonitor, known to all."""
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    kubernetes.create(path, SERVICE_MONITOR)
    subprocess.run(
        [
            *(kube_tools() / "kubectl", "wait", "--for=condition=Established", "--timeout=30s"),
            *("--kubeconfig", kubernetes.kubeconfig(kubernetes.folder / "kubectl")),
            "crd/servicemonitors.monitoring.coreos.com",
        ],
        check=True,
    )
    return kubernetes


def make_namespace(server: KubernetesServer, name: str, level: str) -> None:
    labels = {f"pod-security.kubernetes.io/{mode}": level for mode in ("enforce", "warn")}
    with server.admin as client:
        answer = client.post("/api/v1/namespaces", json={"metadata": {"name": name, "labels": labels}})
    assert answer.status_code in (httpx.codes.CREATED, httpx.codes.CONFLICT), answer.text


def make_namespaces(server: KubernetesServer, documents: Iterable[dict[str, Any]], own: str) -> None:
    """All that the objects are in; a dry run makes none."""
    for name in {each["metadata"].get("namespace", own) for each in documents} | {own}:
        make_namespace(server, name, "restricted" if name == own else "privileged")


def dry_run(server: KubernetesServer, text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(kube_tools() / "kubectl", "apply", "--dry-run=server", "--validate=strict", "--filename", "-"),
            *("--kubeconfig", server.kubeconfig(server.folder / "kubectl")),
            *("--cache-dir", server.folder / "kubectl-cache"),
        ],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("case", CASES)
def test_the_api_server_takes_every_object(case: str, prepared: KubernetesServer) -> None:
    namespace = namespace_of(case)
    documents = render(CASES[case], release=f"{namespace}-citadel", namespace=namespace)
    make_namespaces(prepared, documents, namespace)
    ran = dry_run(prepared, yaml.safe_dump_all(documents))
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.splitlines()) == len(documents)
    assert "would violate PodSecurity" not in ran.stderr
    assert "Warning: unknown field" not in ran.stderr


def test_the_api_server_takes_the_pod_of_the_page(prepared: KubernetesServer) -> None:
    """With the account that every namespace has where controllers run."""
    page = (ROOT / "deploy" / "helm" / "README.md").read_text()
    [text] = [
        each for each in re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL) if "kind: Pod" in each
    ]
    pod = yaml.safe_load(text)
    [container], [volume] = pod["spec"]["containers"], pod["spec"]["volumes"]
    [mount], [variable] = container["volumeMounts"], container["env"]
    settings = yaml.safe_load((CHART / "values.yaml").read_text())["agent"]
    assert volume["hostPath"]["path"] == settings["socketDir"]
    assert (variable["name"], variable["value"]) == (ADDRESS_VARIABLE, f"unix://{mount['mountPath']}/agent.sock")
    with prepared.admin as client:
        client.post("/api/v1/namespaces/default/serviceaccounts", json={"metadata": {"name": "default"}})
    ran = dry_run(prepared, text)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("name", ["postgresql", "sqlite"])
def test_the_api_server_takes_the_plain_manifests(name: str, prepared: KubernetesServer) -> None:
    text = (MANIFESTS / f"{name}.yaml").read_text()
    documents = [each for each in yaml.safe_load_all(text) if each]
    make_namespaces(prepared, documents, "citadel")
    ran = dry_run(prepared, text)
    assert ran.returncode == 0, ran.stderr
    assert "would violate PodSecurity" not in ran.stderr


def test_the_api_server_takes_what_is_for_eks(prepared: KubernetesServer) -> None:
    ran = dry_run(prepared, (EKS / "storage-class.yaml").read_text())
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    "folder", ["app", "signed-in", *(f"routes/{path.name}" for path in (BOOKINFO / "routes").iterdir())]
)
def test_the_api_server_takes_bookinfo_in_a_restricted_namespace(folder: str, prepared: KubernetesServer) -> None:
    made = subprocess.run(
        [kube_tools() / "kubectl", "kustomize", BOOKINFO / folder], capture_output=True, text=True, check=True
    )
    make_namespace(prepared, "bookinfo", "restricted")
    ran = dry_run(prepared, made.stdout)
    assert ran.returncode == 0, ran.stderr
    assert "would violate PodSecurity" not in ran.stderr
    for document in yaml.safe_load_all(made.stdout):
        if document["kind"] == "Deployment":
            answer = try_pod(prepared, "bookinfo", document["spec"]["template"])
            assert answer.status_code == httpx.codes.CREATED, answer.text


def test_what_the_api_server_does_not_know_is_seen(prepared: KubernetesServer) -> None:
    (deployment,) = (each for each in render({}) if each["kind"] == "Deployment")
    make_namespace(prepared, "citadel", "restricted")
    wrong = merged(deployment, {"spec": {"replica": 2}})
    assert "unknown field" in dry_run(prepared, yaml.safe_dump(wrong)).stderr
    pod = deployment["spec"]["template"]["spec"]
    open_pod = merged(deployment, {"spec": {"template": {"spec": merged(pod, {"hostPID": True})}}})
    assert "would violate PodSecurity" in dry_run(prepared, yaml.safe_dump(open_pod)).stderr


def try_pod(server: KubernetesServer, namespace: str, template: dict[str, Any]) -> httpx.Response:
    """Whether admission lets in a pod that a controller makes of this template."""
    body = {"metadata": {"name": "one", **template["metadata"]}, "spec": template["spec"]}
    account = {"metadata": {"name": template["spec"]["serviceAccountName"]}}
    with server.admin as client:
        client.post(f"/api/v1/namespaces/{namespace}/serviceaccounts", json=account)
        return client.post(f"/api/v1/namespaces/{namespace}/pods", json=body, params={"dryRun": "All"})


@pytest.mark.parametrize("case", ["defaults", "sqlite", "vault", "everything"])
def test_a_pod_of_the_server_is_let_into_a_restricted_namespace(case: str, prepared: KubernetesServer) -> None:
    make_namespace(prepared, "restricted-pods", "restricted")
    pods = one(render(CASES[case]), "Deployment", "citadel")["spec"]["template"]
    answer = try_pod(prepared, "restricted-pods", pods)
    assert answer.status_code == httpx.codes.CREATED, answer.text
    assert "Warning" not in answer.headers


@pytest.mark.parametrize(
    ("where", "worse"),
    [
        (("securityContext", "runAsNonRoot"), False),
        (("securityContext", "seccompProfile"), {"type": "Unconfined"}),
        (("hostPID",), True),
    ],
)
def test_a_pod_that_may_more_is_not(where: tuple[str, ...], worse: Any, prepared: KubernetesServer) -> None:
    make_namespace(prepared, "restricted-pods", "restricted")
    pods = one(render({}), "Deployment", "citadel")["spec"]["template"]
    change: Any = worse
    for key in reversed(("spec", *where)):
        change = {key: change}
    answer = try_pod(prepared, "restricted-pods", merged(pods, change))
    assert answer.status_code == httpx.codes.FORBIDDEN
    assert 'violates PodSecurity "restricted' in answer.json()["message"]


def test_pods_of_agents_and_of_the_csi_driver_need_a_namespace_of_their_own(prepared: KubernetesServer) -> None:
    make_namespace(prepared, "restricted-pods", "restricted")
    make_namespace(prepared, "privileged-pods", "privileged")
    documents = render(CASES["csi"])
    for name in ("citadel-agent", "citadel-csi"):
        pods = one(documents, "DaemonSet", name)["spec"]["template"]
        assert try_pod(prepared, "restricted-pods", pods).status_code == httpx.codes.FORBIDDEN
        answer = try_pod(prepared, "privileged-pods", pods)
        assert answer.status_code == httpx.codes.CREATED, answer.text


@pytest.mark.parametrize(
    ("volume", "code"),
    [
        ({"csi": {"driver": "csi.spiffe.io", "readOnly": True}}, httpx.codes.CREATED),
        ({"hostPath": {"path": "/run/citadel"}}, httpx.codes.FORBIDDEN),
    ],
)
def test_a_workload_in_a_restricted_namespace_may_have_the_socket_by_csi_alone(
    volume: dict[str, Any], code: int, prepared: KubernetesServer
) -> None:
    make_namespace(prepared, "restricted-pods", "restricted")
    pods = one(render({}), "Deployment", "citadel")["spec"]["template"]
    spec = pods["spec"] | {"volumes": [*pods["spec"]["volumes"], {"name": "agent", **volume}]}
    assert try_pod(prepared, "restricted-pods", pods | {"spec": spec}).status_code == code


def test_the_notes_name_the_secrets_that_are_the_users_own_and_the_check() -> None:
    for kind, secrets in (("postgresql", "citadel-kek, citadel-store"), ("sqlite", "citadel-kek")):
        said = notes({"server": {"store": {"kind": kind}}})
        assert f"secrets of its namespace are there ({secrets}):" in said
        assert "Keep a copy of the secret citadel-kek somewhere safe" in said
        assert "k8s check -c server.yaml --kubeconfig ~/.kube/config --service-account citadel/citadel\n" in said


def test_the_notes_name_clusters_where_the_roots_of_istios_proxies_are_left_to_others() -> None:
    own = {"istio": {}, "bundles": {"config_maps": [{"name": "citadel-bundle", "key": "bundle.pem"}]}}
    west = {"name": "west", "kubeconfigSecret": "citadel-west", "istio": {}, "bundles": {}}
    said = notes({"cluster": own, "remoteClusters": [west, {**west, "name": "east", "bundles": None}]})
    assert re.findall(r"No ConfigMap istio-ca-root-cert is kept in the cluster (\w+),", said) == ["main", "east"]
