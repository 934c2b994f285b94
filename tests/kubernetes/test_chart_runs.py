"""The chart as it is installed, on loopback: its accounts, roles and settings, and pods made of its templates."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ca.settings import ServerSettings
from citadel._wire import admin_pb2
from cli.agent_process import run_agent
from sds.settings import AgentSettings
from tests.chart import kube_tools, one, render
from tests.integration.meshes import until
from tests.kube_api import ISSUER, KubernetesServer
from tests.ports import free_port
from tests.servers import Server, http_status, running_server

NAMESPACE, NODE = "installed", "installed-node"
AGENTS, SHOP = f"{NAMESPACE}-agents", f"{NAMESPACE}-shop"
# Other tests have namespaces of their own in this cluster.
VALUES = {
    "server": {"store": {"kind": "sqlite"}},
    "cluster": {
        "name": "installed",
        "workloads": {"namespaces": {"include": [SHOP]}},
        "bundles": {
            "config_maps": [{"name": "citadel-bundle", "key": "bundle.pem", "namespaces": {"include": [AGENTS]}}]
        },
    },
}


def settings_of(documents: list[dict[str, Any]], who: str) -> dict[str, Any]:
    data = one(documents, "ConfigMap", f"citadel-{who}")["data"]
    settings: dict[str, Any] = yaml.safe_load(data[f"{who}.yaml"])
    return settings


def of_the_server(documents: list[dict[str, Any]], folder: Path, kubeconfig: Path) -> ServerSettings:
    """As they are, with the folders and ports of this machine; and a kubeconfig in the place of a pod's own account."""
    settings = settings_of(documents, "server")
    settings["data_dir"] = folder / "server"
    settings["listen"] |= {name: f"127.0.0.1:{free_port()}" for name in ("bootstrap", "agents", "probes")}
    settings["listen"]["admin_socket"] = folder / "admin.sock"
    settings["advertise"] |= {name: settings["listen"][name] for name in ("bootstrap", "agents")}
    settings["kubernetes"]["clusters"][0]["api"] = {"kubeconfig": kubeconfig}
    return ServerSettings.model_validate(settings)


def of_the_agent(documents: list[dict[str, Any]], folder: Path, server: Server, kubeconfig: Path) -> AgentSettings:
    settings = settings_of(documents, "agent")
    settings["data_dir"] = folder / "agent"
    settings |= {"socket": folder / "agent.sock", "admin_socket": folder / "agent-admin.sock"}
    settings["probes"] = f"127.0.0.1:{free_port()}"
    settings["servers"] = [str(server.settings.listen.agents)]
    settings["join"]["servers"] = [str(server.settings.listen.bootstrap)]
    settings["join"]["bundle_file"] = folder / "bundle" / Path(settings["join"]["bundle_file"]).name
    settings["join"]["k8s_psat"]["token_file"] = folder / "token"
    settings["kubernetes"]["api"] = {"kubeconfig": kubeconfig}
    return AgentSettings.model_validate(settings)


def install(kubernetes: KubernetesServer, documents: list[dict[str, Any]]) -> None:
    kubernetes.namespace(NAMESPACE)
    subprocess.run(
        [
            *(kube_tools() / "kubectl", "apply", "--filename", "-"),
            *("--kubeconfig", kubernetes.kubeconfig(kubernetes.folder / "kubectl")),
            *("--cache-dir", kubernetes.folder / "kubectl-cache"),
        ],
        input=yaml.safe_dump_all(documents),
        text=True,
        check=True,
        capture_output=True,
    )


def started(kubernetes: KubernetesServer, documents: list[dict[str, Any]]) -> dict[str, Any]:
    """The agent's pod on its node, as the controller of DaemonSets makes it."""
    kubernetes.node(NODE)
    template = one(documents, "DaemonSet", "citadel-agent")["spec"]["template"]
    pod = {"metadata": {"name": "agent-1", **template["metadata"]}, "spec": template["spec"] | {"nodeName": NODE}}
    return kubernetes.create(f"/api/v1/namespaces/{AGENTS}/pods", pod)


def a_pod(kubernetes: KubernetesServer) -> None:
    kubernetes.namespace(SHOP)
    kubernetes.account(SHOP, "web")
    kubernetes.pod(SHOP, "web-1", account="web", node=NODE)


def token_of(kubernetes: KubernetesServer, pod: dict[str, Any]) -> str:
    """The token that kubelet projects, by what the pod says of it."""
    (volume,) = (each for each in pod["spec"]["volumes"] if each["name"] == "token")
    asked = volume["projected"]["sources"][0]["serviceAccountToken"]
    account = pod["spec"]["serviceAccountName"]
    return kubernetes.token(AGENTS, account, audience=asked["audience"], pod=pod, seconds=asked["expirationSeconds"])


async def test_what_it_installs_works(
    kubernetes: KubernetesServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = render(VALUES, namespace=NAMESPACE)
    await asyncio.to_thread(install, kubernetes, documents)
    monkeypatch.setenv("CITADEL_KEK", "A" * 43 + "=")
    monkeypatch.setenv("NODE_NAME", NODE)
    accounts = {"server": (NAMESPACE, "citadel"), "agent": (AGENTS, "citadel-agent")}
    kubeconfigs = {
        who: kubernetes.kubeconfig(tmp_path / who, kubernetes.token(*account, audience=ISSUER))
        for who, account in accounts.items()
    }
    (folder := tmp_path / "pods").mkdir(mode=0o700)
    pod = await asyncio.to_thread(started, kubernetes, documents)
    async with running_server(of_the_server(documents, folder, kubeconfigs["server"])) as server:
        settings = of_the_agent(documents, folder, server, kubeconfigs["agent"])
        (folder / "token").write_text(await asyncio.to_thread(token_of, kubernetes, pod))
        stop = asyncio.Event()
        agent = asyncio.create_task(run_agent(settings, stop=stop))  # before there is a bundle to know the server by
        try:
            await bundle_mounted(kubernetes, documents, settings)
            await until("the agent is ready", lambda: is_ready(settings), seconds=20)
            await asyncio.to_thread(a_pod, kubernetes)
            identity = f"spiffe://example.org/ns/{SHOP}/sa/web"

            async def has_identity() -> bool:
                found = await server.admin().ListEntries(admin_pb2.ListEntriesRequest(spiffe_id=identity))
                return bool(found.entries)

            await until("a pod has its identity", has_identity, seconds=10)
            status = await server.admin().GetStatus(admin_pb2.GetStatusRequest())
            joined = f"spiffe://example.org/citadel/agent/k8s_psat/installed/{NODE}"
            assert joined in [each.spiffe_id for each in status.agents]
        finally:
            stop.set()
            await agent


async def bundle_mounted(
    kubernetes: KubernetesServer, documents: list[dict[str, Any]], settings: AgentSettings
) -> None:
    """Put the ConfigMap of the pod's volume where it is mounted, as soon as the server has made it there."""
    volumes = one(documents, "DaemonSet", "citadel-agent")["spec"]["template"]["spec"]["volumes"]
    (named,) = (each["configMap"]["name"] for each in volumes if each["name"] == "bundle")
    path = f"/api/v1/namespaces/{AGENTS}/configmaps"

    async def is_there() -> bool:
        listed = await asyncio.to_thread(kubernetes.get, path)
        for each in listed["items"]:
            if each["metadata"]["name"] == named and settings.join.bundle_file is not None:
                settings.join.bundle_file.parent.mkdir()
                settings.join.bundle_file.write_text(each["data"][settings.join.bundle_file.name])
                return True
        return False

    await until("the server keeps the bundle where agents are", is_there, seconds=20)


async def is_ready(settings: AgentSettings) -> bool:
    try:
        return (await http_status(settings.probes, "/ready"))[0] == 200
    except OSError:
        return False
