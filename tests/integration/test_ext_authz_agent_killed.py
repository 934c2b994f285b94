"""The agent killed while a proxy asks it about each request: nothing is let through, and it is over soon."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import pytest

from cli.demo.bookinfo import Productpage, Seen
from tests.integration.meshes import LiveMesh, live_mesh

pytestmark = pytest.mark.integration

AS_ROOT: Final = os.geteuid() == 0
RESTART_SECONDS: Final = 0.1  # RestartSec of deploy/systemd/citadel-agent.service


@dataclass
class Visits:
    """Requests one after the other, each with the moments when it began and ended."""

    seen: list[tuple[float, float, Seen]] = field(default_factory=list)

    def first_served(self, *, since: float) -> float | None:
        """When the first one that began after `since` was answered by the workload."""
        return next((end for begin, end, seen in self.seen if begin >= since and seen.version), None)


@asynccontextmanager
async def visiting(mesh: LiveMesh) -> AsyncIterator[Visits]:
    visits, page = Visits(), Productpage(sidecar_port=mesh.plan.productpage.listen_port)

    async def visit() -> None:
        while True:
            begin = time.monotonic()
            seen = await page.visit()
            visits.seen.append((begin, time.monotonic(), seen))

    task = asyncio.create_task(visit())
    try:
        yield visits
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await page.close()


async def back(visits: Visits, *, since: float) -> float:
    """Seconds from `since` until somebody was served who came after it."""
    async with asyncio.timeout(30):
        while (served := visits.first_served(since=since)) is None:
            await asyncio.sleep(0.01)
    return served - since


async def test_requests_are_refused_until_it_is_back(record_property: Callable[[str, object], None]) -> None:
    async with live_mesh(leaf_seconds=60, as_root=AS_ROOT, authorizes=True) as mesh, visiting(mesh) as visits:
        await back(visits, since=time.monotonic())
        killed = time.monotonic()
        await mesh.mesh.children["agent"].kill()
        dead = time.monotonic()
        await asyncio.sleep(0.5)  # as long as it stays away
        meanwhile = [seen for begin, _, seen in visits.seen if begin > dead]
        assert meanwhile
        assert set(meanwhile) == {Seen(refusal="503 ")}
        await mesh.mesh.launch("agent")
        record_property("seconds", await back(visits, since=killed))


async def test_with_the_sockets_unit_they_wait_and_are_served(
    record_property: Callable[[str, object], None],
) -> None:
    async with live_mesh(leaf_seconds=60, as_root=AS_ROOT, authorizes=True) as mesh:
        await mesh.mesh.children["agent"].stop()
        with listening(mesh) as held:
            agent = await started(mesh, held)
            try:
                async with visiting(mesh) as visits:
                    await back(visits, since=time.monotonic())
                    killed = time.monotonic()
                    agent.kill()
                    await agent.wait()
                    dead = time.monotonic()
                    await asyncio.sleep(RESTART_SECONDS)
                    agent = await started(mesh, held)
                    seconds = await back(visits, since=dead)
                record_property("seconds", round(dead - killed + seconds, 2))
                after = [seen for begin, _, seen in visits.seen if begin > dead]
                # What was under way ends with the connection; who comes later waits, up to the 2 s of the filter.
                assert {seen.version for seen in after if not seen.refusal} == {"v1"}
                assert seconds > 2.0 or not any(seen.refusal for seen in after[1:])
            finally:
                agent.kill()
                await agent.wait()


def listening(mesh: LiveMesh) -> socket.socket:
    """What deploy/systemd/citadel-agent.socket makes."""
    path = mesh.plan.agent_socket
    path.unlink(missing_ok=True)
    held = socket.socket(socket.AF_UNIX)
    held.bind(str(path))
    path.chmod(0o666)
    held.listen(4096)
    return held


async def started(mesh: LiveMesh, held: socket.socket) -> asyncio.subprocess.Process:
    """The agent as systemd starts it, which does not wait for it to be ready."""
    settings = mesh.plan.folder / "agent" / "agent.yaml"
    command = [sys.executable, "-P", "-m", "cli.entry", "agent", "run", "--config", settings]
    log = (mesh.plan.folder / "agent.log").open("ab")
    with log:
        return await asyncio.create_subprocess_exec(
            *("bash", "-c", f'exec 3<&{held.fileno()}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"', "bash", *command),
            stdout=log,
            stderr=log,
            pass_fds=[held.fileno()],
        )
