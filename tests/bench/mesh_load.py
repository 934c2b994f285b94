"""A mesh of simulated agents in front of a server: who they are, and the process that they run in."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any, Final

from citadel._wire import admin_pb2, types_pb2
from citadel.join_string import JoinString
from tests.servers import Server

_TOKENS_AT_ONCE: Final = 16
_PER_APPLY: Final = 20_000  # what one apply may hold
_PER_MESSAGE: Final = 500
_PATIENCE: Final = 300.0


class SimulatedMesh:
    """The process of the agents; `tests.bench.agent_load` is its other side."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    async def heard(self) -> dict[str, Any]:
        """The next line that it says."""
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), _PATIENCE)
        return dict(json.loads(line))

    async def tell(self, what: object) -> None:
        """Say a line to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")
        await self._process.stdin.drain()

    async def issuers(self) -> Mapping[str, int]:
        """How many SVIDs the agents hold under each authority, by its key id."""
        await self.tell("count")
        return dict((await self.heard())["issuers"])


@asynccontextmanager
async def simulated_mesh(
    server: Server, folder: Path, *, agents: int, entries: int, sidecars: int
) -> AsyncIterator[SimulatedMesh]:
    """`agents` that have joined, connected, and hold SVIDs for `entries` each, reporting `sidecars` proxies each."""
    await _apply(server, agents=agents, entries=entries)
    who = {
        "trust_domain": str(server.settings.trust_domain),
        "bundle": server.published.decode(),
        "bootstrap": str(server.settings.listen.bootstrap),
        "agents": str(server.settings.listen.agents),
        "tokens": await _tokens(server, agents),
        "entries": entries,
        "sidecars": sidecars,
    }
    with (folder / "agents.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.bench.agent_load"), stdin=PIPE, stdout=PIPE, stderr=log, limit=2**24
        )
    mesh = SimulatedMesh(process)
    try:
        await mesh.tell(who)
        assert "filled" in await mesh.heard()
        yield mesh
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _tokens(server: Server, agents: int) -> list[str]:
    admin, turn = server.admin(), asyncio.Semaphore(_TOKENS_AT_ONCE)

    async def one(number: int) -> str:
        async with turn:
            made = await admin.CreateToken(admin_pb2.CreateTokenRequest(agent_name=f"node-{number}"))
        return JoinString.parse(made.join_string).token

    return await asyncio.gather(*map(one, range(agents)))


async def _apply(server: Server, *, agents: int, entries: int) -> None:
    admin, total = server.admin(), agents * entries
    for first in range(0, total, _PER_APPLY):
        made = range(first, min(first + _PER_APPLY, total))
        async for answer in admin.ApplyEntries(_messages(made, entries)):
            assert not answer.problems, answer.problems[0]


async def _messages(numbers: range, entries: int) -> AsyncIterator[admin_pb2.ApplyEntriesRequest]:
    for begin in range(numbers.start, numbers.stop, _PER_MESSAGE):
        some = range(begin, min(begin + _PER_MESSAGE, numbers.stop))
        yield admin_pb2.ApplyEntriesRequest(
            entries=[
                types_pb2.Entry(
                    spiffe_id=f"spiffe://a.test/ns/shop-{number % 50}/sa/service-{number}",
                    parent_id=f"spiffe://a.test/citadel/agent/node-{number // entries}",
                    selectors=[f"unix:uid:{1000 + number % entries}"],
                )
                for number in some
            ]
        )
