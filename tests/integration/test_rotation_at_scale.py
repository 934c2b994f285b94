"""A rotation of the root with simulated agents, as `make bench` measures it by the thousand: nobody is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.machine import Cores
from tests.bench.mesh_load import simulated_mesh
from tests.bench.processes import server_process
from tests.bench.rotation import rotated

pytestmark = [pytest.mark.integration, pytest.mark.alone]

AGENTS, ENTRIES, WINDOW = 20, 20, 0.5


async def test_every_svid_of_every_agent_hangs_on_the_new_root_in_the_end(tmp_path: Path) -> None:
    async with (
        server_process(tmp_path / "server", Cores.of_this_machine(), rotation={"margin": "500ms"}) as (server, pid),
        simulated_mesh(server, tmp_path, agents=AGENTS, entries=ENTRIES, sidecars=ENTRIES) as mesh,
    ):
        before = await mesh.issuers()
        course = await rotated(server, mesh, svids=AGENTS * ENTRIES, window=WINDOW, pid=pid)
        after = await mesh.issuers()
    assert list(before.values()) == list(after.values()) == [AGENTS * ENTRIES]
    assert before.keys() != after.keys()
    assert max(each.renewed for each in course.seen) == AGENTS * ENTRIES
    assert all(taken for taken in course.calls.values())
