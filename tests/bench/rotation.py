"""A rotation of the root with a whole mesh connected: how fast it renews, and who else is kept waiting meanwhile.

The server is the real process with a durable ledger; the agents are the product's own code over connections of their
own, in one process that makes every key and request, on the same cores. One more agent and the administrator ask all
the while for something small, from this process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

from grpc import aio

from citadel._wire import admin_pb2, agent_api_pb2, rotation_pb2
from citadel._wire.rotation_pb2_grpc import RotationsStub
from citadel.wire import to_duration
from tests.bench.effort import Effort
from tests.bench.machine import Cores, confine, cpu_seconds, resident_bytes
from tests.bench.mesh_load import SimulatedMesh, simulated_mesh
from tests.bench.processes import server_process
from tests.bench.report import Row
from tests.csrs import csr
from tests.servers import Server

_EVERY: Final = 0.05  # seconds between two small calls of a kind
_MOST_SECONDS: Final = 30.0  # from the new root's first signature to the last renewal
_MOST_P99: Final = 250.0  # milliseconds of a small call meanwhile
_SIDECARS: Final = 10  # of each agent, which report
_OUTSIDE: Final = "outside"
_MEGABYTE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One view of the rotation, as `rotate watch` gets it. `at` counts from the call that began it."""

    at: float
    phase: str
    renewed: int


@dataclass(slots=True, kw_only=True)
class Course:
    """A whole rotation. Calls are (when they began, milliseconds) by what was asked."""

    svids: int
    window: float
    seen: list[Seen] = field(default_factory=list)
    calls: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    most_bytes: int = 0

    def entered(self, *phases: str) -> float:
        """When the first of these phases was seen first."""
        return next(each.at for each in self.seen if each.phase in phases)

    @property
    def renewed_at(self) -> float:
        """When the rotator waited for nobody's renewal any more."""
        return self.entered("drain", "retire", "settle", "done")

    @property
    def renewing(self) -> float:
        """Seconds from the new root's first signature to the last renewal."""
        return self.renewed_at - self.entered("activate", "renew")

    def told(self) -> dict[str, Any]:
        """What the picture shows."""
        phases: dict[str, float] = {}
        share, renewed = 0.0, [(0.0, 0.0)]
        for each in self.seen:
            phases.setdefault(each.phase, round(each.at, 2))
            # Who changes its connection afterwards has not told of its renewals again.
            share = max(share, each.renewed / self.svids)
            renewed.append((round(each.at, 2), round(share, 4)))
        return {
            "window": self.window,
            "goal": _MOST_SECONDS,
            "renewing_from": round(self.entered("activate", "renew"), 2),
            "phases": phases,
            "renewed": renewed,
        }

    def cuts(self, what: str) -> list[float]:
        """Percentiles of a call's milliseconds."""
        return quantiles([taken for _, taken in self.calls[what]], n=100, method="inclusive")


async def rotation(folder: Path, cores: Cores, effort: Effort) -> list[Row]:
    """The forced rotation of a mesh."""
    shape, both = effort.mesh, {cores.server, cores.load}
    async with server_process(folder / "server", cores, rotation={"margin": "500ms"}) as (server, pid):
        confine(pid, both)
        async with simulated_mesh(
            server, folder, agents=shape.agents, entries=shape.entries, sidecars=_SIDECARS
        ) as mesh:
            confine(mesh.pid, both)
            course = await rotated(server, mesh, svids=shape.agents * shape.entries, window=shape.window, pid=pid)
            issuers = await mesh.issuers()
    assert list(issuers.values()) == [course.svids], f"held after the rotation, by authority: {issuers}"
    return _rows(course, agents=shape.agents)


async def rotated(server: Server, mesh: SimulatedMesh, *, svids: int, window: float, pid: int) -> Course:
    """Rotate the root, watch it to its end, and ask for small things meanwhile."""
    course = Course(svids=svids, window=window)
    asking = await _small_calls(server)
    cpu = {"server": cpu_seconds(pid), "agents": cpu_seconds(mesh.pid)}
    begun = time.monotonic()
    callers = [asyncio.create_task(_ask(course.calls.setdefault(what, []), ask, begun)) for what, ask in asking.items()]
    channel = aio.insecure_channel(f"unix:{server.settings.listen.admin_socket}")
    async with channel:
        rotations: Any = RotationsStub(channel)
        request = rotation_pb2.StartRotationRequest(
            kind="root", window=to_duration(timedelta(seconds=window)), skip=[_OUTSIDE], why="measured"
        )
        await rotations.StartRotation(request)
        async for view in rotations.WatchRotation(rotation_pb2.WatchRotationRequest()):
            now = time.monotonic() - begun
            course.seen.append(Seen(at=now, phase=view.rotation.phase, renewed=view.svids_renewed))
            course.most_bytes = max(course.most_bytes, resident_bytes(pid))
            if view.rotation.phase == "drain" and not course.cpu:
                course.cpu = {
                    "server": cpu_seconds(pid) - cpu["server"],
                    "agents": cpu_seconds(mesh.pid) - cpu["agents"],
                }
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    return course


def _rows(course: Course, *, agents: int) -> list[Row]:
    per_second = course.svids / course.renewing
    cpu = ", ".join(f"{who} {seconds:.0f} s" for who, seconds in course.cpu.items())
    return [
        Row(
            what=f"a rotation of the root: {course.svids:,} SVIDs of {agents:,} agents renewed",
            value=course.renewing,
            unit="s",
            goal=_MOST_SECONDS,
            at_most=True,
            note=f"{per_second:,.0f}/s over a window of {course.window:g} s; {course.renewed_at:.1f} s after it was "
            f"asked for, all done after {course.entered('done'):.1f} s; server, agents (fresh keys, the path to the "
            f"root not walked) and callers on the same cores: {cpu} of processor time until then",
            details={"course": course.told()},
        ),
        *(
            Row(
                what=f"{what} meanwhile: p99",
                value=course.cuts(what)[98],
                unit="ms",
                goal=_MOST_P99,
                at_most=True,
                note=f"p50 {course.cuts(what)[49]:.0f} ms, worst {max(taken for _, taken in calls):.0f} ms of "
                f"{len(calls)}, every {_EVERY * 1000:.0f} ms from the start to the end",
            )
            for what, calls in course.calls.items()
        ),
        Row(
            what=f"server during the rotation, {agents:,} agents connected: resident",
            value=course.most_bytes / _MEGABYTE,
            unit="MB",
        ),
    ]


async def _small_calls(server: Server) -> dict[str, Callable[[], Awaitable[Any]]]:
    """What an administrator asks, and an agent that takes no part in the rotation."""
    outside = await server.join(_OUTSIDE)
    entry = await server.entry("/outside", outside)
    admin, agents = server.admin(), server.agents(outside)
    item = agent_api_pb2.X509SvidRequest(entry_id=entry.id, csr=csr())

    async def signed() -> None:
        answer = await agents.SignX509Svids(agent_api_pb2.SignX509SvidsRequest(requests=[item]))
        assert answer.results[0].WhichOneof("result") == "svid", answer.results[0].refusal

    async def read() -> None:
        await admin.GetEntry(admin_pb2.GetEntryRequest(id=entry.id))

    await signed()
    await read()
    return {"a single certificate": signed, "an administrator's call": read}


async def _ask(taken: list[tuple[float, float]], ask: Callable[[], Awaitable[Any]], begun: float) -> None:
    while True:
        at = time.monotonic()
        await ask()
        ended = time.monotonic()
        taken.append((at - begun, (ended - at) * 1000))
        await asyncio.sleep(max(0.0, _EVERY - (ended - at)))
