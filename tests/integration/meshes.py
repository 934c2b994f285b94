"""A mesh of real processes for tests: the demo's own, with the means to break it."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import httpx

from citadel._wire import admin_pb2, rotation_pb2, types_pb2
from citadel._wire.admin_pb2_grpc import AdminStub
from citadel._wire.rotation_pb2_grpc import RotationsStub
from citadel.wire import to_duration
from cli.demo import envoy
from cli.demo.bookinfo import Productpage
from cli.demo.envoy import EnvoyAdmin
from cli.demo.issuer import Issuer
from cli.demo.load import Load, Tally
from cli.demo.mesh import Mesh
from cli.demo.observe import Observer, Sighting
from cli.demo.plan import Plan, Sidecar, make_plan
from tests.ports import free_port

KEPT_CLUSTER: Final = "service_kept"


class LiveMesh:
    """A started mesh and what tests do with it."""

    def __init__(self, plan: Plan, mesh: Mesh, client: httpx.AsyncClient) -> None:
        self.plan = plan
        self.mesh = mesh
        self.client = client
        self.observer = Observer(plan, client)
        self._kept_port: int | None = None

    def envoy(self, sidecar: Sidecar) -> EnvoyAdmin:
        return EnvoyAdmin(self.client, sidecar.admin_port)

    async def sightings(self) -> dict[str, Sighting]:
        return {seen.name: seen for seen in await self.observer.look()}

    async def serial_of(self, sidecar: Sidecar) -> str:
        return (await self.envoy(sidecar).certificate()).get("serial", "")

    async def open_kept_way(self) -> None:
        """Start productpage's sidecar anew with a second way to reviews, which keeps its connections open."""
        sidecar, port = self.plan.productpage, free_port()
        bootstrap = envoy.client_bootstrap(self.plan, sidecar)
        resources = bootstrap["static_resources"]
        listener, cluster = deepcopy(resources["listeners"][0]), deepcopy(resources["clusters"][0])
        listener["name"] = "outbound_kept"
        listener["address"]["socket_address"]["port_value"] = port
        [host] = listener["filter_chains"][0]["filters"][0]["typed_config"]["route_config"]["virtual_hosts"]
        host["routes"][0]["route"]["cluster"] = cluster["name"] = KEPT_CLUSTER
        del cluster["typed_extension_protocol_options"]  # which has one request for each connection
        resources["listeners"].append(listener)
        resources["clusters"].append(cluster)
        await self.mesh.children[sidecar.name].kill()
        envoy.write_bootstrap(sidecar, bootstrap)
        await self.mesh.launch_sidecar(sidecar, rewrite=False)
        await until("productpage serves again", self.envoy(sidecar).is_live, seconds=10)
        self._kept_port = port

    @asynccontextmanager
    async def under_load(self) -> AsyncIterator[Tally]:
        """Requests go on inside the block, each over a connection of its own; all are counted at its end."""
        async with self._load(self.plan.productpage.listen_port) as tally:
            yield tally

    @asynccontextmanager
    async def under_both_loads(self) -> AsyncIterator[tuple[Tally, Tally]]:
        """The same, and beside it as many requests over kept connections, counted by themselves."""
        assert self._kept_port is not None, "open the way first"
        async with self.under_load() as fresh, self._load(self._kept_port) as kept:
            yield fresh, kept

    @asynccontextmanager
    async def _load(self, port: int) -> AsyncIterator[Tally]:
        tally, stop = Tally(), asyncio.Event()
        task = asyncio.create_task(Load(self.plan, tally, Productpage(sidecar_port=port)).run(stop))
        try:
            yield tally
        finally:
            stop.set()
            await task

    @asynccontextmanager
    async def rotations(self) -> AsyncIterator[RotationsStub]:
        async with self.mesh.admin_channel() as channel:
            yield RotationsStub(channel)

    async def rotate_root(self, *, window: timedelta = timedelta(0)) -> rotation_pb2.RotationView:
        """A rotation of the root from its start to its end."""
        async with self.rotations() as rotations:
            await rotations.StartRotation(rotation_pb2.StartRotationRequest(kind="root", window=to_duration(window)))
            return [view async for view in rotations.WatchRotation(rotation_pb2.WatchRotationRequest())][-1]

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[AdminStub]:
        async with self.mesh.admin_channel() as channel:
            yield AdminStub(channel)

    async def entry_of(self, sidecar: Sidecar) -> types_pb2.Entry:
        async with self.admin() as admin:
            found = await admin.ListEntries(admin_pb2.ListEntriesRequest(spiffe_id=str(sidecar.spiffe_id)))
        return found.entries[0]

    async def streams(self) -> list[types_pb2.StreamReport]:
        status = await self.mesh.status()
        return [stream for agent in status.agents for stream in agent.streams]


async def until(what: str, holds: Callable[[], Awaitable[bool]], *, seconds: float) -> None:
    """Wait for something that real processes do; fail with its name when it does not come."""
    try:
        async with asyncio.timeout(seconds):
            while not await holds():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"within {seconds} s it did not come true that {what}") from None


@asynccontextmanager
async def live_mesh(
    *,
    leaf_seconds: int,
    as_root: bool,
    pace: float = 50.0,
    server: Mapping[str, Mapping[str, Any]] | None = None,
    authorizes: bool = False,
) -> AsyncIterator[LiveMesh]:
    """The demo's mesh; where it `authorizes`, the sidecar of reviews asks the agent about each request."""
    folder = Path(tempfile.mkdtemp(prefix="citadel-test-"))
    folder.chmod(0o755)  # sidecars of other users start from here
    plan = make_plan(
        folder=folder,
        requests=1,
        leaf_lifetime=timedelta(seconds=leaf_seconds),
        pace=pace,
        most_seconds=60.0,
        keep=False,
        as_root=as_root,
    )
    async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
        mesh = Mesh(plan, client, server=server, issuer=Issuer(plan) if authorizes else None)
        try:
            await mesh.start()
            yield LiveMesh(plan, mesh, client)
        except BaseException:
            for log in sorted(folder.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-6000:]}")  # noqa: T201 - pytest shows it
            raise
        finally:
            # How each ends cleanly is told elsewhere (test_clean_stop), and one after the other takes a second.
            await asyncio.gather(*(child.kill() for child in mesh.children.values()))
            await mesh.stop()
            shutil.rmtree(folder, ignore_errors=True)
