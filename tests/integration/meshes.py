"""A mesh of real processes for tests: the demo's own, with the means to break it."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import grpc
import httpx

from citadel._wire import admin_pb2, types_pb2
from citadel._wire.admin_pb2_grpc import AdminStub
from cli.demo.envoy import EnvoyAdmin
from cli.demo.load import Load, Tally
from cli.demo.mesh import Mesh
from cli.demo.observe import Observer, Sighting
from cli.demo.plan import Plan, Sidecar, make_plan


class LiveMesh:
    """A started mesh and what tests do with it."""

    def __init__(self, plan: Plan, mesh: Mesh, client: httpx.AsyncClient) -> None:
        self.plan = plan
        self.mesh = mesh
        self.client = client
        self.observer = Observer(plan, client)

    def envoy(self, sidecar: Sidecar) -> EnvoyAdmin:
        return EnvoyAdmin(self.client, sidecar.admin_port)

    async def sightings(self) -> dict[str, Sighting]:
        return {seen.name: seen for seen in await self.observer.look()}

    async def serial_of(self, sidecar: Sidecar) -> str:
        return (await self.envoy(sidecar).certificate()).get("serial", "")

    @asynccontextmanager
    async def under_load(self) -> AsyncIterator[Tally]:
        """Requests go on inside the block, each over a connection of its own; all are counted at its end."""
        tally, stop = Tally(), asyncio.Event()
        task = asyncio.create_task(Load(self.plan, tally).run(stop))
        try:
            yield tally
        finally:
            stop.set()
            await task

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[AdminStub]:
        async with grpc.aio.insecure_channel(f"unix:{self.plan.admin_socket}") as channel:
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
async def live_mesh(*, leaf_seconds: int, as_root: bool) -> AsyncIterator[LiveMesh]:
    folder = Path(tempfile.mkdtemp(prefix="citadel-test-"))
    folder.chmod(0o755)  # sidecars of other users start from here
    plan = make_plan(
        folder=folder,
        requests=1,
        leaf_lifetime=timedelta(seconds=leaf_seconds),
        pace=50.0,
        most_seconds=60.0,
        keep=False,
        as_root=as_root,
    )
    async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
        mesh = Mesh(plan, client)
        try:
            await mesh.start()
            yield LiveMesh(plan, mesh, client)
        except BaseException:
            for log in sorted(folder.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-6000:]}")  # noqa: T201 - pytest shows it
            raise
        finally:
            await mesh.stop()
            shutil.rmtree(folder, ignore_errors=True)
