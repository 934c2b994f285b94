"""What a pod of the chart must not be able to do, what watches it, and who reaches it: read from what is rendered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.chart import CASES, one, render

WITH_A_SERVER = ["defaults", "sqlite", "standby", "maintenance", "vault", "everything"]
# Case, kind, name, and the capabilities that a container has.
PODS = [
    *((case, "Deployment", "citadel", None) for case in WITH_A_SERVER),
    *((case, "DaemonSet", "citadel-agent", ["SYS_PTRACE", "DAC_READ_SEARCH"]) for case in ("defaults", "everything")),
    *((case, "DaemonSet", "citadel-csi", None) for case in ("csi", "everything")),
]


def pod_spec(case: str, kind: str, name: str) -> dict[str, Any]:
    spec: dict[str, Any] = one(render(CASES[case]), kind, name)["spec"]["template"]["spec"]
    return spec


def containers(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (*spec.get("initContainers", ()), *spec["containers"])


@pytest.mark.parametrize(("case", "kind", "name", "capabilities"), PODS)
def test_no_container_writes_into_its_image_or_has_a_capability_too_many(
    case: str, kind: str, name: str, capabilities: list[str] | None
) -> None:
    for each in containers(pod_spec(case, kind, name)):
        context = each["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]} | ({"add": capabilities} if capabilities else {})
        if each["name"] == "driver":
            continue  # it mounts into other pods, which Kubernetes lets none do that is not privileged
        assert context["allowPrivilegeEscalation"] is False
        assert not context.get("privileged")


@pytest.mark.parametrize("case", WITH_A_SERVER)
def test_the_server_is_nobody_on_its_node(case: str) -> None:
    spec = pod_spec(case, "Deployment", "citadel")
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostPID", "hostIPC", "hostNetwork"} & spec.keys()
    assert not [each for each in spec["volumes"] if "hostPath" in each]


@pytest.mark.parametrize(
    ("kind", "name", "ready"),
    [("Deployment", "citadel", "/ready?standbyok=true"), ("DaemonSet", "citadel-agent", "/ready")],
)
def test_a_pod_is_watched_from_its_start(kind: str, name: str, ready: str) -> None:
    (container,) = pod_spec("defaults", kind, name)["containers"]
    paths = {"startupProbe": "/live", "livenessProbe": "/live", "readinessProbe": ready}
    assert {probe: container[probe]["httpGet"] for probe in paths} == {
        probe: {"path": path, "port": "probes"} for probe, path in paths.items()
    }
    assert "probes" in {each["name"] for each in container["ports"]}


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_a_drain_takes_one_server_at_a_time_and_is_held_up_by_none_that_is_alone(replicas: int) -> None:
    documents = render({"server": {"replicas": replicas}})
    budgets = [each["spec"] for each in documents if each["kind"] == "PodDisruptionBudget"]
    assert [each["maxUnavailable"] for each in budgets] == [1] * (replicas > 1)
    labels = one(documents, "Deployment", "citadel")["spec"]["template"]["metadata"]["labels"]
    assert all(each["selector"]["matchLabels"].items() <= labels.items() for each in budgets)


def doors(documents: list[dict[str, Any]], policy: str, kind: str) -> dict[str, Any]:
    """Each port that is let in, with from whom: None is everybody."""
    spec = one(documents, "NetworkPolicy", policy)["spec"]
    labels = one(documents, kind, policy)["spec"]["template"]["metadata"]["labels"]
    assert spec["policyTypes"] == ["Ingress"]
    assert spec["podSelector"]["matchLabels"].items() <= labels.items()
    assert all(rule["ports"] for rule in spec.get("ingress", ())), "without ports it would be all of them"
    opened = [(port["port"], rule.get("from")) for rule in spec.get("ingress", ()) for port in rule["ports"]]
    assert len(dict(opened)) == len(opened), "the wider of two rules counts"
    return dict(opened)


def test_everybody_reaches_what_asks_for_proof_and_nothing_else() -> None:
    metrics = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    documents = render({"server": {"extraPorts": [{"name": "federation", "port": 8446}]}})
    server = doors(documents, "citadel", "Deployment")
    assert server == {"bootstrap": None, "agents": None, "federation": None, "probes": metrics}
    assert doors(documents, "citadel-agent", "DaemonSet") == {"probes": metrics}


def test_where_clients_are_named_nobody_else_but_agents_is_let_in() -> None:
    named = {"ipBlock": {"cidr": "10.0.0.0/8"}}
    documents = render({"networkPolicy": {"clients": [named], "metrics": []}})
    server = doors(documents, "citadel", "Deployment")
    assert server.keys() == {"bootstrap", "agents"}
    pods = one(documents, "DaemonSet", "citadel-agent")
    for agents, client in server.values():
        assert client == named
        assert agents["podSelector"]["matchLabels"].items() <= pods["spec"]["template"]["metadata"]["labels"].items()
        assert list(agents["namespaceSelector"]["matchLabels"].values()) == [pods["metadata"]["namespace"]]
    assert doors(documents, "citadel-agent", "DaemonSet") == {}
