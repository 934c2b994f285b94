"""`citadel-cli k8s check` against a real API server: what is good, and each mistake that people make."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml
from click.testing import CliRunner

from ca.kubernetes.permissions import AGENT, server_permissions
from ca.kubernetes.settings import ClusterSettings
from citadel.clock import Clock, SystemClock
from cli.citadel_cli import citadel_cli
from tests.clock import FakeClock
from tests.kube_api import KubernetesServer
from tests.kube_roles import RBAC, grant
from tests.ports import free_port

SERVER, AGENTS = "chk/server", "chk/agent"
NAMESPACES = {"include": ["chk", "chk-*"]}
CLUSTER: Mapping[str, Any] = {
    "name": "main",
    "joining": {"service_accounts": [AGENTS]},
    "workloads": {"namespaces": NAMESPACES},
    "istio": {"namespaces": NAMESPACES},
    "bundles": {
        "config_maps": [
            {"name": "chk-roots", "key": "roots.pem", "namespaces": NAMESPACES},
            {"name": "istio-ca-root-cert", "key": "root-cert.pem", "namespaces": NAMESPACES},
        ],
        "cluster_trust_bundle": {"name": "chk.example.org:chk:roots", "signer_name": "chk.example.org/chk"},
    },
    "signers": {"signer_name": "chk.example.org/chk", "namespaces": NAMESPACES},
    "gateways": {"namespaces": {"include": ["chk-shop"]}},
}
Mistake: TypeAlias = Callable[["Installed", ExitStack], None]


@dataclass
class Installed:
    """Citadel in a cluster as the chart has it; `check` tells all that is not good, with its fix."""

    api: KubernetesServer
    folder: Path
    clusters: list[dict[str, Any]]
    clock: Clock

    def check(self, *arguments: str, account: str = SERVER) -> dict[str, list[Any]]:
        """By subject. Asks as an administrator, but for the permissions."""
        config = {"trust_domain": "a.test", "data_dir": "data", "keys": {"kek_file": "kek"}}
        file = self.folder / "server.yaml"
        file.write_text(json.dumps({**config, "kubernetes": {"clusters": self.clusters}}))
        given = [*(["--service-account", account] if account else []), *arguments]
        socket = ["--socket", str(self.folder / "admin.sock")]
        said = CliRunner().invoke(
            citadel_cli, [*socket, "-o", "json", "k8s", "check", "-c", str(file), *given], obj=self.clock
        )
        assert said.stdout, said.output
        answer = json.loads(said.stdout)
        assert said.exit_code == (0 if answer["fits"] else 8), said.output
        assert all(each["fix"] for each in answer["checks"] if each["grade"] in {"bad", "warning"})
        found: dict[str, list[Any]] = {}
        for each in answer["checks"]:
            if each["grade"] != "good":
                found.setdefault(each["subject"], []).append((each["grade"], each["finding"], each["reason"]))
        return found


@pytest.fixture(scope="module")
def cluster(kubernetes: KubernetesServer) -> KubernetesServer:
    for name in ("chk", "chk-shop"):
        kubernetes.namespace(name)
    for account in (SERVER, AGENTS):
        kubernetes.account(*account.split("/"))
    grant(kubernetes, SERVER, server_permissions(ClusterSettings.model_validate(CLUSTER)), "chk-server")
    grant(kubernetes, AGENTS, AGENT, "chk-agent")
    kubernetes.node("chk-node")
    windows = {"name": "chk-node-windows", "labels": {"kubernetes.io/os": "windows"}}
    kubernetes.create("/api/v1/nodes", {"metadata": windows})  # no agent runs there, and none is missed
    agent(kubernetes)
    server(kubernetes)
    for name, key in (("chk-roots", "roots.pem"), ("istio-ca-root-cert", "root-cert.pem")):
        for namespace in ("chk", "chk-shop"):
            kept(kubernetes, namespace, name, {key: "roots"}, manager="citadel")
    return kubernetes


@pytest.fixture
def installed(cluster: KubernetesServer, tmp_path: Path) -> Installed:
    api = {"kubeconfig": str(cluster.kubeconfig(tmp_path / "kubeconfig"))}
    return Installed(api=cluster, folder=tmp_path, clusters=[{**CLUSTER, "api": api}], clock=SystemClock())


SECRETS = {"chk-kek": {"kek": "a2V5"}, "chk-store": {"url": "dXJs"}}
DEPLOYMENT, DAEMON_SET = "/apis/apps/v1/namespaces/chk/deployments", "/apis/apps/v1/namespaces/chk/daemonsets"


def server(api: KubernetesServer) -> None:
    """As the chart has it, and a pod that no controller has made."""
    for name in SECRETS:
        secret(api, name)
    keys = [(name, key) for name, data in SECRETS.items() for key in data]
    env = [
        *({"name": key.upper(), "valueFrom": {"secretKeyRef": {"name": name, "key": key}}} for name, key in keys),
        {"name": "EXTRA", "valueFrom": {"secretKeyRef": {"name": "nowhere", "key": "a", "optional": True}}},
    ]
    made(api, DEPLOYMENT, "server", {"replicas": 1}, env)
    main = {"name": "main", "image": "example.org/main:1"}
    api.create(
        "/api/v1/namespaces/chk/pods", {**named("server"), "spec": {**as_account("server"), "containers": [main]}}
    )
    readiness(api, "server", "True")
    evicted = {**named("server-evicted"), "spec": {**as_account("server"), "containers": [main]}}
    api.create("/api/v1/namespaces/chk/pods", evicted)
    api.patch("/api/v1/namespaces/chk/pods/server-evicted/status", {"status": {"phase": "Failed"}})


def named(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {"app": name}}}


def as_account(name: str) -> dict[str, Any]:
    return {"serviceAccountName": name}


def made(api: KubernetesServer, path: str, account: str, more: dict[str, Any], env: list[Any]) -> None:
    """A Deployment or DaemonSet of pods with this account."""
    container = {"name": "main", "image": "example.org/main:1", "env": env}
    template = {**named(account), "spec": {**as_account(account), "containers": [container]}}
    spec = {**more, "selector": {"matchLabels": {"app": account}}, "template": template}
    api.create(path, {**named(account), "spec": spec})


def secret(api: KubernetesServer, name: str) -> None:
    api.create("/api/v1/namespaces/chk/secrets", {"metadata": {"name": name}, "data": SECRETS[name]})


def agent(api: KubernetesServer, name: str = "agent", *, audience: str = "citadel", sees: bool = True) -> None:
    """A pod of the agents' DaemonSet."""
    token = {"serviceAccountToken": {"audience": audience, "path": "token"}}
    spec = {
        "serviceAccountName": "agent",
        "nodeName": "chk-node",
        "hostPID": sees,
        "containers": [{"name": "main", "image": "example.org/main:1"}],
        "volumes": [{"name": "citadel", "projected": {"sources": [token]}}],
    }
    api.create("/api/v1/namespaces/chk/pods", {"metadata": {"name": name}, "spec": spec})
    readiness(api, name, "True")


def readiness(api: KubernetesServer, name: str, status: str) -> None:
    """As the kubelet says it."""
    ready = {"status": {"conditions": [{"type": "Ready", "status": status}]}}
    api.patch(f"/api/v1/namespaces/chk/pods/{name}/status", ready)


def kept(api: KubernetesServer, namespace: str, name: str, data: dict[str, str], *, manager: str) -> None:
    """A ConfigMap that `manager` writes."""
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
    with api.admin as client:
        answer = client.patch(
            f"/api/v1/namespaces/{namespace}/configmaps/{name}",
            json=body,
            params={"fieldManager": manager, "force": "true"},
            headers={"Content-Type": "application/apply-patch+yaml"},
        )
        answer.raise_for_status()


NOBODY_RUNS = {"server": [("unknown", "not asked how it fares, nor what it trusts: ", None)]}


def alike(found: Mapping[str, list[Any]], expected: Mapping[str, list[Any]]) -> bool:
    """Whether both have the same subjects, grades and reasons, and each expected text stands in the one found."""
    return found.keys() == expected.keys() and all(
        len(found[subject]) == len(expected[subject])
        and all(
            (is_[0], is_[2]) == (should[0], should[2]) and should[1] in is_[1]
            for is_, should in zip(found[subject], expected[subject], strict=True)
        )
        for subject in expected
    )


def without_other_nodes(found: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Nodes that other tests have made in the same cluster have no agent."""
    agents = [each for each in found.get("agents", []) if "chk-node" in each[1] or "none is ready on" not in each[1]]
    return {
        **{name: each for name, each in found.items() if name != "agents"},
        **({"agents": agents} if agents else {}),
    }


def test_an_install_as_the_table_says_it_is_good(installed: Installed) -> None:
    found = without_other_nodes(installed.check())
    assert alike(found, NOBODY_RUNS), found


def test_what_the_server_may_not_look_at_itself_is_told_as_unknown(installed: Installed) -> None:
    token = installed.api.token("chk", "server", audience="https://kubernetes.default.svc")
    own = installed.api.kubeconfig(installed.folder / "own", token)
    found = without_other_nodes(installed.check("--kubeconfig", str(own), account=""))
    assert {each[0] for findings in found.values() for each in findings} == {"unknown"}, found
    assert set(found) == {"account", "server"}, found


def test_an_administrator_who_names_no_account_is_told_what_is_not_looked_at(installed: Installed) -> None:
    found = without_other_nodes(installed.check(account=""))
    unseen = "the server's, and their secrets, are not looked at: name its --service-account"
    everything = ("warning", "admin may do everything in this cluster", None)
    assert alike(found, {**NOBODY_RUNS, "permission": [everything], "pods": [("unknown", unseen, None)]}), found


def test_before_an_install_nothing_is_bad_that_the_install_brings(installed: Installed) -> None:
    """One line says that the account is not there, and none that roles are missing; a pipeline can go by the code."""
    new = {"config_maps": [{"name": "chk-new", "key": "roots.pem", "namespaces": NAMESPACES}]}
    installed.clusters[0] |= {"joining": {"service_accounts": ["chk/other"]}, "istio": None, "bundles": new}
    found = installed.check(account="chk/none")
    assert alike(
        found,
        {
            "account": [
                ("warning", "chk/none is not there: nothing is installed yet, or it has another name", None),
                ("warning", "chk/other of the agents is not there yet", None),
            ],
            "permission": [("unknown", "what chk/none may is not asked for before it is there", None)],
            "agents": [("warning", "there is none yet", None)],
            "config_map": [("warning", "chk-new is not in 2 of 2 namespaces", None)],
            **NOBODY_RUNS,
        },
    ), found


def test_an_account_of_another_name_is_bad_where_something_is_installed(installed: Installed) -> None:
    found = without_other_nodes(installed.check(account="chk/none"))
    wrong = ("bad", "chk/none is not there, but the agent chk/agent is: ", "kubernetes_not_found")
    unasked = ("unknown", "what chk/none may is not asked for before it is there", None)
    assert alike(found, {"account": [wrong], "permission": [unasked], **NOBODY_RUNS}), found


def test_a_namespace_that_refuses_agents_is_told_before_the_install(installed: Installed) -> None:
    with ExitStack() as undo:
        enforced("restricted")(installed, undo)
        found = installed.check(account="chk/none")
    assert [each[0] for each in found["namespace"]] == ["bad"], found


def lacks(group: str, resource: str, verb: str, role: str = "chk-server") -> Mistake:
    """Without this in the ClusterRole."""

    def change(installed: Installed, undo: ExitStack) -> None:
        path = f"{RBAC}/clusterroles/{role}"
        rules = installed.api.get(path)["rules"]
        less = [
            {**each, "verbs": [one for one in each["verbs"] if one != verb]}
            if (each["apiGroups"], each["resources"]) == ([group], [resource])
            else each
            for each in rules
        ]
        installed.api.patch(path, {"rules": [each for each in less if each["verbs"]]})
        undo.callback(installed.api.patch, path, {"rules": rules})

    return change


def too_much(installed: Installed, undo: ExitStack) -> None:
    path = f"{RBAC}/clusterroles/chk-server"
    rules = installed.api.get(path)["rules"]
    installed.api.patch(path, {"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]})
    undo.callback(installed.api.patch, path, {"rules": rules})


def no_role_in_namespace(installed: Installed, undo: ExitStack) -> None:
    path = f"{RBAC}/namespaces/chk-shop/rolebindings"
    bound = installed.api.get(f"{path}/chk-server")
    installed.api.delete(f"{path}/chk-server")
    again = {"metadata": {"name": "chk-server"}, "roleRef": bound["roleRef"], "subjects": bound["subjects"]}
    undo.callback(installed.api.create, path, again)


def settings(**sections: Any) -> Mistake:
    """With these in the place of the ones in the settings."""
    return lambda installed, _: installed.clusters[0].update(sections)


def two_names(installed: Installed, _: ExitStack) -> None:
    installed.clusters.append({"name": "other", "api": installed.clusters[0]["api"]})


def unreachable(installed: Installed, _: ExitStack) -> None:
    file = installed.api.kubeconfig(installed.folder / "away", address=f"https://127.0.0.1:{free_port()}")
    installed.clusters[0]["api"] = {"kubeconfig": str(file)}


def untrusted(installed: Installed, _: ExitStack) -> None:
    file = installed.api.kubeconfig(installed.folder / "untrusted")
    config = yaml.safe_load(file.read_text())
    del config["clusters"][0]["cluster"]["certificate-authority"]
    file.write_text(yaml.safe_dump(config))
    installed.clusters[0]["api"] = {"kubeconfig": str(file)}


def unknown_caller(installed: Installed, _: ExitStack) -> None:
    file = installed.api.kubeconfig(installed.folder / "unknown", "made-up")
    installed.clusters[0]["api"] = {"kubeconfig": str(file)}


def behind(by: timedelta) -> Mistake:
    def change(installed: Installed, _: ExitStack) -> None:
        installed.clock = FakeClock(datetime.now(UTC) - by)

    return change


def another_agent(**given: Any) -> Mistake:
    def change(installed: Installed, undo: ExitStack) -> None:
        agent(installed.api, "mistaken", **given)
        undo.callback(installed.api.delete, "/api/v1/namespaces/chk/pods/mistaken")

    return change


def no_agent_is_ready(installed: Installed, undo: ExitStack) -> None:
    readiness(installed.api, "agent", "False")
    undo.callback(readiness, installed.api, "agent", "True")


def istiod_writes_too(installed: Installed, undo: ExitStack) -> None:
    name = "istio-ca-root-cert"
    kept(installed.api, "chk-shop", name, {"root-cert.pem": "another"}, manager="pilot-discovery")
    undo.callback(kept, installed.api, "chk-shop", name, {"root-cert.pem": "roots"}, manager="citadel")
    undo.callback(installed.api.delete, f"/api/v1/namespaces/chk-shop/configmaps/{name}")


def without_secret(name: str) -> Mistake:
    def change(installed: Installed, undo: ExitStack) -> None:
        installed.api.delete(f"/api/v1/namespaces/chk/secrets/{name}")
        undo.callback(secret, installed.api, name)

    return change


def another_key(installed: Installed, undo: ExitStack) -> None:
    path = "/api/v1/namespaces/chk/secrets/chk-kek"
    installed.api.patch(path, {"data": {"kek": None, "key": "a2V5"}})
    undo.callback(installed.api.patch, path, {"data": {"key": None, **SECRETS["chk-kek"]}})


def the_server_waits(installed: Installed, undo: ExitStack) -> None:
    """As the kubelet says it."""
    waiting = {"reason": "CreateContainerConfigError", "message": "configmap citadel not found"}
    container = {"name": "main", "image": "", "imageID": "", "ready": False, "restartCount": 0}
    path = "/api/v1/namespaces/chk/pods/server/status"
    unready = [{"type": "Ready", "status": "False"}]
    statuses = [{**container, "state": {"waiting": waiting}}]
    installed.api.patch(path, {"status": {"conditions": unready, "containerStatuses": statuses}})
    undo.callback(installed.api.patch, path, {"status": {"containerStatuses": None}})
    undo.callback(readiness, installed.api, "server", "True")


def no_pod_of_the_server(installed: Installed, undo: ExitStack) -> None:
    """As the controller says it where pods are refused."""
    path = f"{DEPLOYMENT}/server/status"
    failed = {"type": "ReplicaFailure", "status": "True", "message": 'pods "server-1" is forbidden: a quota'}
    installed.api.delete("/api/v1/namespaces/chk/pods/server")
    installed.api.patch(path, {"status": {"conditions": [failed]}})

    def again() -> None:
        pods = ("/api/v1/namespaces/chk/pods", "server-evicted")
        secrets = [("/api/v1/namespaces/chk/secrets", each) for each in SECRETS]
        for path, name in ((DEPLOYMENT, "server"), pods, *secrets):
            installed.api.delete(f"{path}/{name}")
        server(installed.api)

    undo.callback(again)


def enforced(level: str) -> Mistake:
    def change(installed: Installed, undo: ExitStack) -> None:
        path, label = "/api/v1/namespaces/chk", "pod-security.kubernetes.io/enforce"
        installed.api.patch(path, {"metadata": {"labels": {label: level}}})
        undo.callback(installed.api.patch, path, {"metadata": {"labels": {label: None}}})

    return change


def no_agent(installed: Installed, undo: ExitStack) -> None:
    installed.api.delete("/api/v1/namespaces/chk/pods/agent")
    undo.callback(agent, installed.api)


def agents_are_refused(installed: Installed, undo: ExitStack) -> None:
    """A DaemonSet says how many it wants, and nothing of why it has none."""
    no_agent(installed, undo)
    made(installed.api, DAEMON_SET, "agent", {}, [])
    undo.callback(installed.api.delete, f"{DAEMON_SET}/agent")
    status = {"desiredNumberScheduled": 3, "currentNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0}
    installed.api.patch(f"{DAEMON_SET}/agent/status", {"status": status})


def no_node_for_agents(installed: Installed, undo: ExitStack) -> None:
    no_agent(installed, undo)
    made(installed.api, DAEMON_SET, "agent", {}, [])
    undo.callback(installed.api.delete, f"{DAEMON_SET}/agent")


def a_namespace_without(installed: Installed, undo: ExitStack) -> None:
    installed.api.delete("/api/v1/namespaces/chk-shop/configmaps/chk-roots")
    undo.callback(kept, installed.api, "chk-shop", "chk-roots", {"roots.pem": "roots"}, manager="citadel")


DENIED, CERTIFICATES = "kubernetes_denied", "certificates.k8s.io"
MISTAKES: Mapping[str, tuple[Mistake, Mapping[str, list[Any]]]] = {
    "nothing listens": (unreachable, {"reached": [("bad", "Cannot connect", "kubernetes_unavailable")]}),
    "another authority": (untrusted, {"reached": [("bad", "certificate", "kubernetes_untrusted")]}),
    "a token of nobody": (unknown_caller, {"reached": [("bad", "does not know who asks", "kubernetes_login_refused")]}),
    "far behind": (
        behind(timedelta(minutes=5)),
        {"clock": [("bad", " s ahead: tokens", "kubernetes_refused")]},
    ),
    "a little behind": (behind(timedelta(seconds=20)), {"clock": [("warning", " s ahead", None)]}),
    "no TokenReview": (
        lacks("authentication.k8s.io", "tokenreviews", "create"),
        {
            "permission": [
                ("bad", "chk/server may not create tokenreviews.authentication.k8s.io: no agent can join", DENIED)
            ]
        },
    ),
    "no watch of namespaces": (
        lacks("", "namespaces", "watch"),
        {"permission": [("bad", "may not watch namespaces: the trust bundle is not kept", DENIED)]},
    ),
    "no patch of its ConfigMaps": (
        lacks("", "configmaps", "patch"),
        {"permission": [("bad", "may not patch configmaps chk-roots, patch configmaps istio-ca-root-cert", DENIED)]},
    ),
    "not its signer": (
        lacks(CERTIFICATES, "signers", "sign"),
        {
            "permission": [
                ("bad", "may not sign signers.certificates.k8s.io chk.example.org/chk", DENIED),
            ]
        },
    ),
    "no status of requests": (
        lacks(CERTIFICATES, "certificatesigningrequests/status", "update"),
        {"permission": [("bad", "update certificatesigningrequests/status", DENIED)]},
    ),
    "no role where the secrets are": (
        no_role_in_namespace,
        {
            "permission": [
                ("bad", "may not list secrets in chk-shop, watch secrets in chk-shop", DENIED),
                ("bad", "may not create events in chk-shop, patch events in chk-shop", DENIED),
            ]
        },
    ),
    "the agent may not watch": (
        lacks("", "pods", "watch", "chk-agent"),
        {"permission": [("bad", "chk/agent may not watch pods: pods get no identity from this agent", DENIED)]},
    ),
    "a role for everything": (too_much, {"permission": [("warning", "may do everything", None)]}),
    "a namespace that is not there": (
        settings(gateways={"namespaces": {"include": ["chk-shop", "chk-away"]}}),
        {
            "permission": [("bad", "secrets in chk-away", DENIED), ("bad", "events in chk-away", DENIED)],
            "namespace": [("bad", "`gateways.namespaces` names chk-away, which is not there", "kubernetes_not_found")],
        },
    ),
    "patterns that fit nothing": (
        settings(workloads={"namespaces": {"include": ["nowhere-*"]}}),
        {"namespace": [("warning", "`workloads.namespaces` admits none of the", None)]},
    ),
    "agents of another name": (
        settings(joining={"service_accounts": ["chk/other"]}),
        {
            "account": [("bad", "chk/other of the agents is not there", "kubernetes_not_found")],
            "agents": [("bad", "there is none", "not_ready")],
        },
    ),
    "the secret of the key-encryption key is not there": (
        without_secret("chk-kek"),
        {"secrets": [("bad", "chk lacks the secret chk-kek: no pod of server starts", "kubernetes_not_found")]},
    ),
    "a secret with another key": (
        another_key,
        {"secrets": [("bad", "chk lacks the key kek of the secret chk-kek", "kubernetes_not_found")]},
    ),
    "the server's pod does not start": (
        the_server_waits,
        {
            "pods": [
                ("bad", "none is ready of chk/server (CreateContainerConfigError: configmap citadel not", "not_ready")
            ]
        },
    ),
    "the server's pods are refused": (
        no_pod_of_the_server,
        {"pods": [("bad", 'chk/server has none of its 1 pods: pods "server-1" is forbidden', "kubernetes_refused")]},
    ),
    "pod security that no agent fits": (
        enforced("restricted"),
        {"namespace": [("bad", "pod security of chk enforces restricted, which refuses agents", "kubernetes_refused")]},
    ),
    "pod security that no agent fits either": (
        enforced("baseline"),
        {"namespace": [("bad", "pod security of chk enforces baseline, which refuses agents", "kubernetes_refused")]},
    ),
    "pod security that agents fit": (enforced("privileged"), {}),
    "no agents at all": (no_agent, {"agents": [("bad", "there is none, and `joining` is set", "not_ready")]}),
    "agents that are refused": (
        agents_are_refused,
        {"agents": [("bad", "daemonset chk/agent has none of its 3 pods: pod security", "kubernetes_refused")]},
    ),
    "agents for no node": (no_node_for_agents, {"agents": [("bad", "daemonset chk/agent wants none", "not_ready")]}),
    "another audience": (
        another_agent(audience="vault"),
        {"audience": [("bad", "no token for citadel is projected into chk/mistaken", "k8s_token_audience")]},
    ),
    "an agent that sees itself alone": (
        another_agent(sees=False),
        {"agents": [("bad", "chk/mistaken cannot see the processes of other pods", "pod_unseen")]},
    ),
    "no agent that is ready": (no_agent_is_ready, {"agents": [("bad", "none is ready of chk/agent", "not_ready")]}),
    "istiod writes too": (
        istiod_writes_too,
        {
            "writers": [
                ("bad", "istio-ca-root-cert is also written by pilot-discovery, in chk-shop", "kubernetes_conflict")
            ]
        },
    ),
    "a namespace without the bundle": (
        a_namespace_without,
        {"config_map": [("warning", "chk-roots is not in 1 of 2 namespaces: chk-shop", None)]},
    ),
    "two names for one cluster": (
        two_names,
        {
            "cluster": [("bad", "other and main are one: tokens of one are good for the other", "config_invalid")],
            "server": 2 * NOBODY_RUNS["server"],
        },
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found_and_nothing_else(installed: Installed, name: str) -> None:
    mistake, expected = MISTAKES[name]
    with ExitStack() as undo:
        mistake(installed, undo)
        found = without_other_nodes(installed.check())
    stopped = {"reached", "caller"} & expected.keys()  # nothing else is looked at
    assert alike(found, expected if stopped else {**NOBODY_RUNS, **expected}), found
