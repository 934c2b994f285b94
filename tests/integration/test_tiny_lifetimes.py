"""Lifetimes of seconds: roots and issuing authorities rotate by themselves again and again, under load."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, Final

import pytest

from citadel._wire import rotation_pb2
from tests.integration.meshes import LiveMesh, live_mesh, until

pytestmark = [pytest.mark.integration, pytest.mark.alone]

LEAF_SECONDS: Final = 8
PACE: Final = 100.0  # requests a second of each of the two loads
# In MB, over some 30 rotations. The server keeps what agents have shown parsed, up to 1,024 certificates, which five
# minutes do not reach (0.2 MB a minute here), and the store's page cache fills; the rest is the allocator's saw-tooth.
# Seen: 2.1 for the server, 1.0 and 2.8 for the agent; in 10 further minutes no more than 3.5 and 1.5.
MOST_GROWTH: Final = 4.0

# Minutes at lifetimes of which each is a small part of the one above it.
TINY: Final = {"root_lifetime": "90s", "issuer_lifetime": "30s"}
# As many rotations in as few seconds as leaves of 8 s allow.
SHORTER: Final = {"root_lifetime": "40s", "issuer_lifetime": "20s"}


def settings(authorities: dict[str, str], *, root_at: float, issuer_at: float) -> Mapping[str, Mapping[str, Any]]:
    return {
        "authorities": authorities,
        "svids": {"max_lifetime": "10s", "agent_lifetime": "10s"},
        "rotation": {"root_at": root_at, "issuer_at": issuer_at, "window": "2s", "margin": "500ms"},
    }


async def test_roots_and_issuing_authorities_rotate_by_themselves_and_no_request_fails() -> None:
    server = settings(SHORTER, root_at=0.3, issuer_at=0.3)
    async with live_mesh(leaf_seconds=LEAF_SECONDS, as_root=os.geteuid() == 0, pace=PACE, server=server) as mesh:
        await mesh.open_kept_way()
        async with mesh.under_both_loads() as (fresh, kept):
            for kind in ("issuer", "root"):
                await until(f"a rotation of kind {kind} is done", lambda kind=kind: is_done(mesh, kind), seconds=60)
        assert fresh.failures + kept.failures == Counter()
        await all_went_well(mesh)


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_five_minutes_of_it_and_memory_is_flat() -> None:
    server = settings(TINY, root_at=0.5, issuer_at=0.4)
    async with live_mesh(leaf_seconds=LEAF_SECONDS, as_root=os.geteuid() == 0, pace=PACE, server=server) as mesh:
        await mesh.open_kept_way()
        memory = Memory(mesh, ("server", "agent"))
        async with mesh.under_both_loads() as (fresh, kept):
            end = time.monotonic() + 300
            await until("five minutes are over", lambda: memory.is_sampled_until(end), seconds=310)
        done = await all_went_well(mesh)
        print(  # noqa: T201 - the figures are what a long run is for
            f"\n{fresh.done + kept.done} requests in 5 minutes, {fresh.failed + kept.failed} failed; "
            f"{done['root']} roots and {done['issuer']} issuing authorities rotated; {memory}",
            end="",
        )
        assert fresh.failures + kept.failures == Counter()
        assert done["root"] >= 4
        assert done["issuer"] >= 8
        assert memory.growth("server") < MOST_GROWTH
        assert memory.growth("agent") < MOST_GROWTH


class Memory:
    """Resident memory of processes, in MB, sampled every second."""

    def __init__(self, mesh: LiveMesh, names: Iterable[str]) -> None:
        self._pids = {name: mesh.mesh.children[name].pid for name in names}
        self._samples: dict[str, list[float]] = {name: [] for name in names}
        self._next = 0.0

    async def is_sampled_until(self, end: float) -> bool:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 1.0
            for name, pid in self._pids.items():
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                self._samples[name].append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
        return now >= end

    def growth(self, name: str) -> float:
        """From the second minute, when every cache has been filled once, to the last one."""
        return self._minute(name, -60, None) - self._minute(name, 60, 120)

    def _minute(self, name: str, first: int, last: int | None) -> float:
        return median(self._samples[name][first:last])

    def __str__(self) -> str:
        return ", ".join(
            f"{name} {self._minute(name, 60, 120):.1f} MB in the second minute, {self._minute(name, -60, None):.1f} MB"
            " in the last"
            for name in self._samples
        )


async def rotations_of(mesh: LiveMesh) -> list[rotation_pb2.Rotation]:
    async with mesh.rotations() as rotations:
        return list((await rotations.ListRotations(rotation_pb2.ListRotationsRequest())).rotations)


async def is_done(mesh: LiveMesh, kind: str) -> bool:
    return any((each.kind, each.phase) == (kind, "done") for each in await rotations_of(mesh))


async def all_went_well(mesh: LiveMesh) -> Counter[str]:
    """How many rotations of each kind are done: none was undone or went on without anybody, and nothing was refused."""
    rotations = await rotations_of(mesh)
    assert [each.alarm for each in rotations if each.alarm] == []
    assert {each.phase for each in rotations[1:]} == {"done"}, "at most the newest one still runs"
    for sidecar in (mesh.plan.reviews, mesh.plan.productpage):
        assert await mesh.envoy(sidecar).stat("update_rejected") == 0
    return Counter(each.kind for each in rotations if each.phase == "done")
