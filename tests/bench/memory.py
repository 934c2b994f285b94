"""What a server holds in memory: at rest, and for each entry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from citadel._wire import admin_pb2, types_pb2
from tests.bench.effort import Effort
from tests.bench.machine import Cores, resident_bytes
from tests.bench.processes import server_process
from tests.bench.report import Row
from tests.servers import Server

_AGENTS: Final = 100  # the entries are spread over so many
_PER_MESSAGE: Final = 500
_MEGABYTE: Final = 1024 * 1024
_AT_REST: Final = 2.0  # seconds after the last call


async def server_memory(folder: Path, cores: Cores, effort: Effort) -> list[Row]:
    """A fresh server, the same one right after it was filled, and after a restart with all entries."""
    async with server_process(folder / "server", cores) as (server, pid):
        await asyncio.sleep(_AT_REST)
        idle = resident_bytes(pid)
        await _fill(server, effort.entries)
        await asyncio.sleep(_AT_REST)
        filled = resident_bytes(pid)
    async with server_process(folder / "server", cores) as (server, pid):
        assert (await server.status()).entries == effort.entries
        await asyncio.sleep(_AT_REST)
        restarted = resident_bytes(pid)
    return [
        Row(what="server at rest, resident", value=idle / _MEGABYTE, unit="MB", goal=120, at_most=True),
        Row(
            what=f"server with {effort.entries:,} entries: resident memory an entry",
            value=(restarted - idle) / effort.entries / 1024,
            unit="KiB",
            goal=1.25,
            at_most=True,
            note=f"the goal says about 1 KiB; after a restart {restarted / _MEGABYTE:.0f} MB in all, "
            f"right after they were created {filled / _MEGABYTE:.0f} MB",
        ),
    ]


async def _fill(server: Server, count: int) -> None:
    call = server.admin().ApplyEntries(_messages(count))
    created = 0
    async for answer in call:
        assert not answer.problems, answer.problems[0]
        created += sum(change.kind == admin_pb2.EntryChange.CREATED for change in answer.changes)
    assert created == count, f"{created} of {count} entries were created"


async def _messages(count: int) -> AsyncIterator[admin_pb2.ApplyEntriesRequest]:
    for begin in range(0, count, _PER_MESSAGE):
        numbers = range(begin, min(begin + _PER_MESSAGE, count))
        yield admin_pb2.ApplyEntriesRequest(entries=map(_entry, numbers))


def _entry(number: int) -> types_pb2.Entry:
    """One with three selectors, as they are in use."""
    return types_pb2.Entry(
        spiffe_id=f"spiffe://a.test/ns/shop-{number % 50}/sa/service-{number}",
        parent_id=f"spiffe://a.test/citadel/agent/node-{number % _AGENTS}",
        selectors=[f"unix:uid:{1000 + number % 200}", "unix:user:app", f"unix:path:/opt/app-{number % 300}/bin/serve"],
    )
