"""A server that knows a cluster of Kubernetes: its start, and what it says of the API server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from citadel._wire import admin_pb2
from citadel.errors import CitadelError, Reason
from cli.server_process import run_server
from tests.kube_api import KubernetesServer, running_kubernetes
from tests.servers import Server, http_status, running_server, server_settings


def cluster(kubeconfig: Path, **parts: Any) -> dict[str, Any]:
    return {"clusters": [{"name": "c1", "api": {"kubeconfig": str(kubeconfig)}, **parts}]}


async def until(
    server: Server, wanted: Callable[[admin_pb2.KubernetesStatus], bool], *, seconds: float = 20
) -> admin_pb2.KubernetesStatus:
    async with asyncio.timeout(seconds):
        while not wanted(found := (await server.admin().GetStatus(admin_pb2.GetStatusRequest())).kubernetes[0]):
            await asyncio.sleep(0.05)
        return found


async def test_an_api_server_that_is_away_keeps_no_server_from_starting(tmp_path: Path) -> None:
    (tmp_path / "kubernetes").mkdir()
    with running_kubernetes(tmp_path / "kubernetes") as kubernetes:
        kubernetes.stop_api()
        settings = server_settings(
            tmp_path, kubernetes=cluster(kubernetes.kubeconfig(tmp_path / "kubeconfig"), joining={})
        )
        async with running_server(settings) as server:
            away = await until(server, lambda status: not status.good)
            assert (away.cluster, away.reason, away.pods_known) == ("c1", "kubernetes_unavailable", False)
            assert away.HasField("since")
            code, ready = await http_status(settings.listen.probes, "/ready")
            assert (code, '"status":"degraded"' in ready.replace(" ", "")) == (200, True)
            assert "kubernetes c1" in ready
            await asyncio.to_thread(kubernetes.start_api)
            kubernetes.namespace("here")
            kubernetes.account("here", "default")
            kubernetes.pod("here", "a", node="n1")
            back = await until(server, lambda status: status.good and status.pods == 1)
            assert back.pods_known
            metrics = (await http_status(settings.listen.probes, "/metrics"))[1]
            assert 'citadel_kubernetes_good{cluster="c1"} 1.0' in metrics
            assert 'citadel_kubernetes_pods{cluster="c1"} 1.0' in metrics
            assert 'citadel_kubernetes_calls_total{cluster="c1",outcome="ok",resource="pods",verb="list"}' in metrics


async def test_without_a_part_that_needs_them_no_pods_are_followed(
    kubernetes: KubernetesServer, tmp_path: Path
) -> None:
    settings = server_settings(tmp_path, kubernetes=cluster(kubernetes.kubeconfig(tmp_path / "kubeconfig")))
    async with running_server(settings) as server:
        status = (await server.admin().GetStatus(admin_pb2.GetStatusRequest())).kubernetes[0]
        assert status.good
        assert not status.HasField("pods")


async def test_a_kubeconfig_that_cannot_be_used_refuses_the_start_and_names_the_cluster(tmp_path: Path) -> None:
    settings = server_settings(tmp_path, kubernetes=cluster(tmp_path / "none"))
    with pytest.raises(CitadelError) as refused:
        await run_server(settings, stop=asyncio.Event())
    assert refused.value.reason is Reason.CONFIG_INVALID
    assert "cluster c1" in str(refused.value)
