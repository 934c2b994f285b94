"""Identities by template, with the real API server and a real server: entries follow the pods, and nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from click.testing import CliRunner
from grpc import aio

from ca.kubernetes.workloads.labels import LabelSelector
from ca.settings import ServerSettings
from citadel._wire import admin_pb2, records_pb2, records_pb2_grpc, types_pb2
from cli.citadel_cli import citadel_cli
from tests.kube_api import KubernetesServer, running_kubernetes
from tests.servers import Server, running_server, server_settings

AGENT = "spiffe://a.test/citadel/agent/k8s_psat"


def settings(folder: Path, kubeconfig: Path, **workloads: Any) -> ServerSettings:
    cluster = {"name": "c1", "api": {"kubeconfig": str(kubeconfig)}, "workloads": workloads}
    return server_settings(folder, kubernetes={"clusters": [cluster]})


async def entries(server: Server) -> Mapping[str, types_pb2.Entry]:
    """Those of pods, by pod."""
    found = await server.admin().ListEntries(admin_pb2.ListEntriesRequest(page_size=1000))
    return {each.origin.removeprefix("k8s:c1/"): each for each in found.entries if each.origin}


async def until(
    server: Server, wanted: Callable[[Mapping[str, types_pb2.Entry]], object]
) -> Mapping[str, types_pb2.Entry]:
    async with asyncio.timeout(20):
        while not wanted(found := await entries(server)):
            await asyncio.sleep(0.02)
        return found


async def until_pods(server: Server, *pods: str) -> Mapping[str, types_pb2.Entry]:
    return await until(server, lambda found: sorted(found) == sorted(pods))


async def told(server: Server) -> admin_pb2.KubernetesStatus:
    return (await server.admin().GetStatus(admin_pb2.GetStatusRequest())).kubernetes[0]


async def acts(settings: ServerSettings) -> Sequence[tuple[str, str]]:
    async with aio.insecure_channel(f"unix:{settings.listen.admin_socket}") as channel:
        request = records_pb2.ListActsRequest(actor="kubernetes:c1", page_size=1000)
        found = await records_pb2_grpc.RecordsStub(channel).ListActs(request)
    return [(act.what, act.target) for act in reversed(found.acts)]


async def test_entries_come_change_and_go_with_pods_and_services(kubernetes: KubernetesServer, tmp_path: Path) -> None:
    kubernetes.namespace("tpl-shop")
    kubernetes.namespace("tpl-other")
    for account in ("web", "w.x-y.9"):
        kubernetes.account("tpl-shop", account)
    kubernetes.account("tpl-other", "web")

    def pod(name: str, account: str = "web", **more: Any) -> dict[str, Any]:
        return kubernetes.pod("tpl-shop", name, account=account, labels={"mesh": "in", "app": name}, **more)

    first = pod("first", node="tpl-node")
    pod("unbound")
    pod("unlabelled", node="tpl-node")
    kubernetes.patch("/api/v1/namespaces/tpl-shop/pods/unlabelled", {"metadata": {"labels": {"mesh": None}}})
    kubernetes.pod("tpl-other", "elsewhere", account="web", node="tpl-node", labels={"mesh": "in"})
    chosen = settings(
        tmp_path,
        kubernetes.kubeconfig(tmp_path / "kubeconfig"),
        namespaces={"include": ["tpl-shop"]},
        pod_labels="mesh in (in), app",
        service_dns_names=True,
    )
    async with running_server(chosen) as server:
        made = (await until_pods(server, "tpl-shop/first"))["tpl-shop/first"]
        assert made.spiffe_id == "spiffe://a.test/ns/tpl-shop/sa/web"
        assert made.parent_id == f"{AGENT}/c1/tpl-node"
        assert list(made.selectors) == [f"k8s:pod-uid:{first['metadata']['uid']}"]

        odd = pod("odd.name-0.x", account="w.x-y.9", node="tpl-node")  # as strange as Kubernetes lets them be
        pod("ends", node="tpl-node")
        found = await until_pods(server, *(f"tpl-shop/{name}" for name in ("first", "odd.name-0.x", "ends")))
        assert found["tpl-shop/odd.name-0.x"].spiffe_id == "spiffe://a.test/ns/tpl-shop/sa/w.x-y.9"
        assert found["tpl-shop/odd.name-0.x"].selectors[0].endswith(odd["metadata"]["uid"])

        # A service, an end, a label and a deletion.
        services = "/api/v1/namespaces/tpl-shop/services"
        for name, spec in (
            ("plain", {"selector": {"app": "first"}}),
            ("headless", {"selector": {"mesh": "in"}, "clusterIP": "None"}),
            ("outside", {"type": "ExternalName", "externalName": "example.org", "selector": {"mesh": "in"}}),
            ("none", {}),
        ):
            kubernetes.create(services, {"metadata": {"name": name}, "spec": {**spec, "ports": [{"port": 80}]}})
        named = await until(server, lambda found: len(found["tpl-shop/first"].dns_names) == 4)
        assert list(named["tpl-shop/first"].dns_names) == [
            "headless.tpl-shop.svc",
            "headless.tpl-shop.svc.cluster.local",
            "plain.tpl-shop.svc",
            "plain.tpl-shop.svc.cluster.local",
        ]
        assert named["tpl-shop/first"].id == made.id
        kubernetes.patch("/api/v1/namespaces/tpl-shop/pods/ends/status", {"status": {"phase": "Succeeded"}})
        kubernetes.patch("/api/v1/namespaces/tpl-shop/pods/odd.name-0.x", {"metadata": {"labels": {"app": None}}})
        await until_pods(server, "tpl-shop/first")
        kubernetes.delete("/api/v1/namespaces/tpl-shop/pods/first")
        again = pod("first", node="tpl-node")
        uid = f"k8s:pod-uid:{again['metadata']['uid']}"
        new = await until(server, lambda found: [list(each.selectors) for each in found.values()] == [[uid]])
        assert new["tpl-shop/first"].id != made.id

        # People see it and cannot change it.
        with pytest.raises(aio.AioRpcError) as refused:
            await server.admin().DeleteEntry(admin_pb2.DeleteEntryRequest(id=new["tpl-shop/first"].id))
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        socket = str(chosen.listen.admin_socket)
        listed = await asyncio.to_thread(_cli, "--socket", socket, "-o", "json", "entry", "list", "--origin", "k8s:c1/")
        assert [each["origin"] for each in json.loads(listed)["entries"]] == ["k8s:c1/tpl-shop/first"]
        assert ", 1 admitted, 1 entries" in await asyncio.to_thread(_cli, "--socket", socket, "status")
        told_of = await acts(chosen)
        assert ("entry.create", made.id) in told_of
        assert ("entry.delete", made.id) in told_of


async def test_what_is_there_stays_while_the_api_server_is_away_also_over_a_restart(tmp_path: Path) -> None:
    (tmp_path / "kubernetes").mkdir()
    with running_kubernetes(tmp_path / "kubernetes") as kubernetes:
        kubernetes.namespace("shop")
        kubernetes.account("shop", "default")
        for name in ("stays", "goes"):
            kubernetes.pod("shop", name, node="n1")
        chosen = settings(tmp_path, kubernetes.kubeconfig(tmp_path / "kubeconfig"))
        async with running_server(chosen) as server:
            before = await until_pods(server, "shop/stays", "shop/goes")
            kubernetes.stop_api()
            await _until_not_good(server)
            assert await entries(server) == before
        async with running_server(chosen) as server:
            await _until_not_good(server)
            assert await entries(server) == before
            await asyncio.to_thread(kubernetes.start_api)
            kubernetes.delete("/api/v1/namespaces/shop/pods/goes")
            after = await until_pods(server, "shop/stays")
            assert after["shop/stays"] == before["shop/stays"]
        # Without the section nobody would keep it true.
        async with running_server(chosen.model_copy(update={"kubernetes": None})) as server:
            await until_pods(server)


async def _until_not_good(server: Server) -> None:
    async with asyncio.timeout(20):
        while (await told(server)).good:
            await asyncio.sleep(0.05)


def _cli(*arguments: str) -> str:
    result = CliRunner().invoke(citadel_cli, arguments)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


@pytest.mark.parametrize(
    "selector",
    ["app=a", "app!=a", "app", "!app", "app in (a,b)", "app notin (a, b)", "app==a,tier!=x", "empty=", "!tier,app!=b"],
)
def test_a_label_selector_means_what_it_means_to_the_api_server(kubernetes: KubernetesServer, selector: str) -> None:
    labels: Mapping[str, Mapping[str, str]] = {
        "tpl-a": {"app": "a", "tier": "x"},
        "tpl-b": {"app": "b"},
        "tpl-c": {"tier": "y", "empty": ""},
        "tpl-d": {},
    }
    path = "/api/v1/namespaces/default/configmaps"
    with kubernetes.admin as client:
        for name, its in labels.items():
            answer = client.post(path, json={"metadata": {"name": name, "labels": {"tpl": "yes", **its}}})
            assert answer.status_code in (httpx.codes.CREATED, httpx.codes.CONFLICT)
        found = client.get(path, params={"labelSelector": f"tpl,{selector}"}).json()["items"]
    ours = LabelSelector.parse(selector)
    assert {each["metadata"]["name"] for each in found} == {name for name, its in labels.items() if ours.matches(its)}
