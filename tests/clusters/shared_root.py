"""Clusters of one trust domain under the root of a parent, each in a place of its own; requests cross between two."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import httpx

from citadel._wire import admin_pb2, rotation_pb2, types_pb2
from citadel._wire.admin_pb2_grpc import AdminStub
from citadel._wire.rotation_pb2_grpc import RotationsStub
from citadel.reserved import agent_id
from citadel.spiffe import TrustDomain
from citadel.wire import to_duration
from tests.clusters.bootstraps import Bootstrap
from tests.clusters.cluster import Cluster
from tests.clusters.places import Place, places
from tests.clusters.proxy import Proxy
from tests.clusters.recipes import INBOUND_PORT

MESH: Final = TrustDomain("mesh.example")
_PARENTS_AGENT_PROBES: Final = 8482
_BOOTSTRAP_PORT: Final = 8443
_AGENTS_PORT: Final = 8444


@dataclass
class Crossing:
    """Requests in both directions, each over a connection of its own."""

    done: int = 0
    failures: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class SharedRoot:
    """The parent, which has no workload, and the clusters below."""

    parent: Cluster
    children: tuple[Cluster, ...]

    def name_of(self, child: Cluster) -> str:
        """Who the server of the child is at the parent."""
        return str(MESH.member("clusters", child.name))

    async def workloads(self) -> tuple[Proxy, Proxy]:
        """One in each of two children, which call each other directly."""
        east, west = self.children
        started = await asyncio.gather(_workload(east, west), _workload(west, east))
        return started[0], started[1]


async def _workload(here: Cluster, there: Cluster) -> Proxy:
    made = Bootstrap("sidecar.yaml")
    made.listen("inbound", (here.place.address, INBOUND_PORT))
    made.point("service", (there.place.address, INBOUND_PORT))
    made.pin_callers([str(MESH.member(there.name, "web"))])
    made.pin_service(str(MESH.member(there.name, "web")))
    return await here.workload(MESH.member(here.name, "web"), made)


@asynccontextmanager
async def shared_root(
    names: Sequence[str] = ("east", "west"), *, below: Mapping[str, str] | None = None
) -> AsyncIterator[SharedRoot]:
    """All started: the parent, and for each other one an agent of the one above it. `below` says whom who is below.

    Where nothing is said it is below the parent.
    """
    folder = Path(tempfile.mkdtemp(prefix="citadel-test-"))
    folder.chmod(0o755)  # sidecars of other users start from here
    async with places(1 + len(names)) as found:
        made: dict[str, Cluster] = {}
        for name, place in zip(("parent", *names), found.each, strict=True):
            above = made.get((below or {}).get(name, "parent"))
            settings = {"rotation": {"margin": "500ms", "window": "0s"}, **_reachable(place)}
            if above is not None:
                settings |= _below(above, folder / name)
            made[name] = Cluster(name, MESH, place=place, folder=folder / name, settings=settings)
        try:
            await made["parent"].start()
            direct = [name for name in names if name not in (below or {})]
            await asyncio.gather(*(_join(made["parent"], made[name]) for name in direct))
            for name, above_it in (below or {}).items():
                await _join(made[above_it], made[name])
            yield SharedRoot(made["parent"], tuple(made[name] for name in names))
        except BaseException:
            for log in sorted(folder.glob("*/*.log")):
                print(f"--- {log.relative_to(folder)}\n{log.read_text(errors='replace')[-6000:]}")  # noqa: T201 - pytest shows it
            raise
        finally:
            await asyncio.gather(*(cluster.stop() for cluster in made.values()))
            shutil.rmtree(folder, ignore_errors=True)


def _reachable(place: Place) -> dict[str, Any]:
    return {"listen": {"bootstrap": f"{place.address}:{_BOOTSTRAP_PORT}", "agents": f"{place.address}:{_AGENTS_PORT}"}}


def _below(parent: Cluster, folder: Path) -> dict[str, Any]:
    address = f"{parent.place.address}:{_AGENTS_PORT}"
    return {"upstream": {"citadel": {"address": address, "workload_api": str(_socket(folder))}}}


def _socket(folder: Path) -> Path:
    return folder.parent / f"{folder.name}-parent" / "agent.sock"


async def _join(parent: Cluster, child: Cluster) -> None:
    """What the owner of the parent does for a child, and then its start."""
    socket, name = _socket(child.folder), f"{child.name}-server"
    socket.parent.mkdir(mode=0o755)
    (data := socket.parent / "agent").mkdir(mode=0o700)
    await parent.start_agent(name, data, socket, place=child.place, probes=_PARENTS_AGENT_PROBES)
    entry = types_pb2.Entry(
        spiffe_id=str(MESH.member("clusters", child.name)),
        parent_id=str(agent_id(MESH, name)),
        selectors=[f"unix:uid:{os.geteuid()}"],
        downstream=True,
    )
    async with parent.admin_channel() as channel:
        await AdminStub(channel).CreateEntry(admin_pb2.CreateEntryRequest(entry=entry))
    await child.start()


@asynccontextmanager
async def crossing(*proxies: Proxy, pause: float = 0.05) -> AsyncIterator[Crossing]:
    """Each calls the other all the time within this."""
    tally, stop = Crossing(), asyncio.Event()

    async def call(proxy: Proxy) -> None:
        while not stop.is_set():
            try:
                await proxy.call()
            except httpx.HTTPStatusError as error:
                tally.failures[f"{proxy.spiffe_id}: {error.response.status_code} {error.response.text}"] += 1
            except httpx.HTTPError as error:
                tally.failures[f"{proxy.spiffe_id}: {type(error).__name__}"] += 1
            tally.done += 1
            await asyncio.sleep(pause)

    async with asyncio.TaskGroup() as callers:
        for proxy in proxies:
            callers.create_task(call(proxy))
        try:
            yield tally
        finally:
            stop.set()


async def rotated(cluster: Cluster, kind: str, **how: Any) -> list[rotation_pb2.RotationView]:
    """A rotation from its start to its end, as who watches it sees it."""
    async with cluster.admin_channel() as channel:
        rotations = RotationsStub(channel)
        request = rotation_pb2.StartRotationRequest(kind=kind, window=to_duration(timedelta(0)), **how)
        await rotations.StartRotation(request)
        return [view async for view in rotations.WatchRotation(rotation_pb2.WatchRotationRequest())]
