"""Load between clusters: calls without a pause worth speaking of, each over a connection of its own, none retried."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

from tests.clusters.proxy import Proxy

_PAUSE = 0.02


@dataclass(slots=True)
class Calls:
    """So far. `failures` counts them by what went wrong."""

    done: int = 0
    failures: Counter[str] = field(default_factory=Counter)


@asynccontextmanager
async def calls_between(pairs: Sequence[tuple[Proxy, Proxy]]) -> AsyncIterator[Calls]:
    """Of each pair the first calls the second inside the block; those that were begun are answered at its end."""
    calls, stop = Calls(), asyncio.Event()
    async with asyncio.TaskGroup() as callers:
        for caller, callee in pairs:
            callers.create_task(_call(caller, callee, calls, stop))
        try:
            yield calls
        finally:
            stop.set()


async def _call(caller: Proxy, callee: Proxy, calls: Calls, stop: asyncio.Event) -> None:
    wanted = (str(caller.spiffe_id), str(callee.spiffe_id))
    while not stop.is_set():
        try:
            seen = await caller.call()
        except httpx.HTTPStatusError as error:
            calls.failures[f"{caller.spiffe_id}: {error.response.status_code} {error.response.text}"] += 1
        except httpx.HTTPError as error:
            calls.failures[f"{caller.spiffe_id}: {type(error).__name__}: {error}"] += 1
        else:
            if seen != wanted:
                calls.failures[f"wrong peers: {seen}"] += 1
        calls.done += 1
        await asyncio.sleep(_PAUSE)
