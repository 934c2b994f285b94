"""Informers through what happens to a real API server and to the way there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from citadel.clock import SystemClock
from citadel.kubernetes.client import Patience, kubernetes_client
from citadel.kubernetes.informer import Informer
from citadel.kubernetes.observed import ObservedApi
from citadel.kubernetes.settings import ApiServerSettings
from tests.kube_api import KubernetesServer, running_kubernetes
from tests.wire import Wire

MAPS = "/api/v1/namespaces/{}/configmaps"


class Followed:
    """An informer of a namespace's ConfigMaps, over a wire."""

    def __init__(self, api: ObservedApi, wire: Wire, path: str) -> None:
        self.api = api
        self.wire = wire
        self.told: list[tuple[str, Any, Any]] = []
        self.informer: Informer[Any] = Informer(api, path, keep=lambda each: each.get("data"), clock=SystemClock())
        self.informer.follow(lambda *change: self.told.append(change))

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.01)

    def calls(self, verb: str) -> int:
        return sum(count for (each, *_), count in self.api.calls.ended.items() if each == verb)


@asynccontextmanager
async def following(
    kubernetes: KubernetesServer, folder: Path, namespace: str, *, silence: float = 60
) -> AsyncIterator[Followed]:
    wire = Wire(kubernetes.port)
    kubeconfig = kubernetes.kubeconfig(folder / "kubeconfig", address=f"https://127.0.0.1:{await wire.start()}")
    patience = Patience(connect=1, answer=1, silence=silence)
    client = await kubernetes_client(ApiServerSettings(kubeconfig=kubeconfig), patience=patience)
    followed = Followed(ObservedApi(client, clock=SystemClock()), wire, MAPS.format(namespace))
    running = asyncio.create_task(followed.informer.run())
    try:
        await followed.until(lambda: followed.informer.has_synced)
        yield followed
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await client.close()
        await wire.close()


def a_map(name: str, **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "data": data}


async def test_a_broken_connection_costs_one_watch_and_loses_nothing(
    kubernetes: KubernetesServer, tmp_path: Path
) -> None:
    kubernetes.namespace("broken")
    path = MAPS.format("broken")
    async with following(kubernetes, tmp_path, "broken") as followed:
        followed.wire.break_off()
        await followed.until(lambda: followed.informer.trouble)
        kubernetes.create(path, a_map("a", x="1"))
        kubernetes.create(path, a_map("b", x="1"))
        kubernetes.delete(f"{path}/b")
        followed.told.clear()
        followed.wire.mend()
        await followed.until(lambda: len(followed.told) == 3)
        assert [key for key, *_ in followed.told] == ["broken/a", "broken/b", "broken/b"]
        assert followed.informer.trouble is None
        assert followed.api.calls.trouble is None
        assert followed.calls("list") == 1


async def test_a_connection_that_has_fallen_silent_is_noticed(kubernetes: KubernetesServer, tmp_path: Path) -> None:
    kubernetes.namespace("silent")
    async with following(kubernetes, tmp_path, "silent", silence=1) as followed:
        followed.wire.cut()
        await followed.until(lambda: followed.informer.trouble)
        kubernetes.create(MAPS.format("silent"), a_map("a", x="1"))
        followed.wire.mend()
        await followed.until(lambda: followed.told[-1:] == [("silent/a", None, {"x": "1"})])


async def test_an_api_server_that_does_not_remember_is_listed_and_told_as_the_difference(tmp_path: Path) -> None:
    """One that began anew answers 410 Gone to whoever goes on from before."""
    (tmp_path / "server").mkdir()
    with running_kubernetes(tmp_path / "server") as kubernetes:
        kubernetes.namespace("gone")
        path = MAPS.format("gone")
        for name in ("same", "changed", "deleted"):
            kubernetes.create(path, a_map(name, x="1"))
        async with following(kubernetes, tmp_path, "gone") as followed:
            assert len(followed.told) == 3
            followed.wire.break_off()
            followed.told.clear()
            kubernetes.patch(f"{path}/changed", {"data": {"x": "2"}})
            kubernetes.delete(f"{path}/deleted")
            kubernetes.create(path, a_map("new", x="1"))
            await asyncio.to_thread(kubernetes.stop_api)
            await asyncio.to_thread(kubernetes.start_api)
            followed.wire.mend()
            await followed.until(lambda: len(followed.told) == 3)
            assert sorted(followed.told, key=str) == [
                ("gone/changed", {"x": "1"}, {"x": "2"}),
                ("gone/deleted", {"x": "1"}, None),
                ("gone/new", None, {"x": "1"}),
            ]
            assert followed.calls("list") == 2
