"""The client of the API server, and informers, against the real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from citadel.clock import SystemClock
from citadel.errors import FailedPrecondition, NotFound, Reason, Unavailable
from citadel.kubernetes.client import KubernetesClient, kubernetes_client
from citadel.kubernetes.informer import Informer
from citadel.kubernetes.ports import ApiUnavailable
from citadel.kubernetes.settings import ApiServerSettings
from tests.kube_api import KubernetesServer
from tests.ports import free_port


@asynccontextmanager
async def connected(kubeconfig: Path) -> AsyncIterator[KubernetesClient]:
    client = await kubernetes_client(ApiServerSettings(kubeconfig=kubeconfig))
    try:
        yield client
    finally:
        await client.close()


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


async def test_an_object_is_made_read_changed_and_deleted(kubernetes: KubernetesServer, tmp_path: Path) -> None:
    kubernetes.namespace("client")
    path = "/api/v1/namespaces/client/configmaps"
    async with connected(kubernetes.kubeconfig(tmp_path / "kubeconfig")) as api:
        await api.create(path, config_map("one", a="1"))
        with pytest.raises(FailedPrecondition) as conflict:
            await api.create(path, config_map("one"))
        await api.apply(f"{path}/one", config_map("one", a="2"))
        found = await api.get(f"{path}/one")
        await api.delete(f"{path}/one")
        await api.delete(f"{path}/one")
        with pytest.raises(NotFound):
            await api.get(f"{path}/one")
    assert conflict.value.reason is Reason.KUBERNETES_CONFLICT
    assert found["data"] == {"a": "2"}


async def test_an_informer_sees_what_comes_changes_and_goes(kubernetes: KubernetesServer, tmp_path: Path) -> None:
    kubernetes.namespace("informed")
    path = "/api/v1/namespaces/informed/configmaps"
    kubernetes.create(path, config_map("before", a="1"))
    async with connected(kubernetes.kubeconfig(tmp_path / "kubeconfig")) as api:
        seen: asyncio.Queue[tuple[str, Any, Any]] = asyncio.Queue()
        informer: Informer[Mapping[str, Any]] = Informer(
            api, path, keep=lambda each: each.get("data"), clock=SystemClock()
        )
        informer.follow(lambda key, before, after: seen.put_nowait((key, before, after)))
        running = asyncio.create_task(informer.run())
        try:
            async with asyncio.timeout(10):
                assert await seen.get() == ("informed/before", None, {"a": "1"})
                await asyncio.to_thread(kubernetes.create, path, config_map("later", b="1"))
                assert await seen.get() == ("informed/later", None, {"b": "1"})
                await asyncio.to_thread(kubernetes.patch, f"{path}/later", {"data": {"b": "2"}})
                assert await seen.get() == ("informed/later", {"b": "1"}, {"b": "2"})
                await asyncio.to_thread(kubernetes.delete, f"{path}/later")
                assert await seen.get() == ("informed/later", {"b": "2"}, None)
        finally:
            running.cancel()
        assert informer.current == {"informed/before": {"a": "1"}}


async def test_who_may_not_and_who_is_unknown_is_told_apart(kubernetes: KubernetesServer, tmp_path: Path) -> None:
    kubernetes.namespace("denied")
    kubernetes.account("denied", "nobody")
    token = kubernetes.token("denied", "nobody", audience="https://kubernetes.default.svc")
    async with connected(kubernetes.kubeconfig(tmp_path / "nobody", token)) as api:
        with pytest.raises(Unavailable, match="secrets") as denied:
            await api.list("/api/v1/namespaces/denied/secrets")
    async with connected(kubernetes.kubeconfig(tmp_path / "unknown", "made-up")) as api:
        with pytest.raises(Unavailable) as unknown:
            await api.get("/api/v1/namespaces/denied")
    address = f"https://127.0.0.1:{free_port()}"
    async with connected(kubernetes.kubeconfig(tmp_path / "away", address=address)) as api:
        with pytest.raises(ApiUnavailable):
            await api.get("/api/v1/namespaces/denied")
    assert denied.value.reason is Reason.KUBERNETES_DENIED
    assert unknown.value.reason is Reason.KUBERNETES_LOGIN_REFUSED
