"""10,000 entries created, changed and deleted while 1,000 agents listen: nothing is lost, nobody is held up."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from ca.agents.model import Agent
from ca.api.sessions import AgentSession
from ca.audit.model import Actor
from ca.entries.directory import EntryDirectory
from ca.entries.registry import EntryRegistry
from ca.store.database import Database
from ca.store.entries import SqlEntryStore
from citadel.clock import SystemClock
from citadel.entry import Entry
from citadel.reserved import agent_id
from citadel.spiffe import SpiffeId
from tests.unit.ca.values import A_TEST, NOW, SERVER, agent, entry

pytestmark = [pytest.mark.integration, pytest.mark.alone]

AGENTS, ENTRIES, RACKS, AT_ONCE = 1000, 10_000, 20, 32
MOST_SECONDS = 60.0
MOST_P99_SECONDS = 1.0
ROOT = Actor.local(0)


class Listener:
    """One connected agent as the server keeps it, and what it knows by what it was told."""

    def __init__(self, directory: EntryDirectory, who: Agent) -> None:
        self.agent = who
        self.knows: dict[str, int] = {}
        self._directory = directory
        self._session = AgentSession(agent=who, connected_at=NOW)
        self._watch = directory.watch(self._session.wake, who)
        self.has_heard = asyncio.Event()

    async def run(self) -> None:
        wake, clock = self._session.wake, SystemClock()
        wake.set()
        while True:
            await wake.wait()
            wake.clear()
            news = self._directory.news(self._watch, clock.now())
            for update in self._session.updates(news=news, bundles={}, revision=self._directory.revision):
                for entry_id in update.removed_entry_ids:
                    del self.knows[entry_id]
                self.knows.update((message.id, message.revision) for message in update.entries)
                await asyncio.sleep(0)
            if not wake.is_set():
                self.has_heard.set()

    def is_up_to_date(self) -> bool:
        return self.has_heard.is_set() and not self._session.wake.is_set()


@asynccontextmanager
async def a_registry(folder: Path) -> AsyncIterator[tuple[EntryRegistry, EntryDirectory]]:
    database = Database.open(f"sqlite+aiosqlite:///{folder / 'store.db'}")
    await database.migrate()
    directory = EntryDirectory(trust_domain=A_TEST)
    store = SqlEntryStore(database=database)
    registry = EntryRegistry(trust_domain=A_TEST, store=store, directory=directory, clock=SystemClock())
    await registry.start()
    try:
        yield registry, directory
    finally:
        await database.close()


def rack(number: int) -> SpiffeId:
    return SpiffeId(A_TEST, f"/rack-{number}")


def wanted(number: int) -> Entry:
    """Most belong to one agent; one in fifty is shared by a rack of them."""
    parent = rack(number % RACKS) if number % 50 == 0 else agent_id(A_TEST, f"n{number % AGENTS}")
    return entry(f"/w{number}", parent, f"unix:uid:{number % 100}", id="", revision=0)


async def latencies(directory: EntryDirectory, who: Agent, done: asyncio.Event) -> list[float]:
    """How long a small call of somebody else waits for its turn."""
    found = []
    while not done.is_set():
        begun = time.monotonic()
        await asyncio.sleep(0.005)
        directory.for_agent(who, NOW)
        found.append(time.monotonic() - begun - 0.005)
    return sorted(found)


async def in_any_order(registry: EntryRegistry) -> None:
    """Create each entry, change it and delete a third, several at a time, mixed."""
    numbers, chance = iter(range(ENTRIES)), random.Random(7)  # noqa: S311 - an order, no secret

    async def some() -> None:
        for number in numbers:
            made = await registry.create(wanted(number), by=ROOT)
            changed = await registry.update(replace(made, hint=str(chance.random())), by=ROOT)
            if number % 3 == 0:
                await registry.delete(changed.id, by=ROOT)

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))


@pytest.mark.soak
async def test_ten_thousand_changes_reach_a_thousand_agents_and_hold_nobody_up(tmp_path: Path) -> None:
    async with a_registry(tmp_path) as (registry, directory):
        for number in range(RACKS):
            alias = entry(rack(number).path, SERVER, f"node:rack:r{number}", id="", revision=0)
            await registry.create(alias, by=ROOT)
        agents = [agent(agent_id(A_TEST, f"n{n}"), f"node:name:n{n}", f"node:rack:r{n % RACKS}") for n in range(AGENTS)]
        listeners = [Listener(directory, who) for who in agents]
        listening = [asyncio.create_task(listener.run()) for listener in listeners]
        done = asyncio.Event()
        measuring = asyncio.create_task(latencies(directory, agents[0], done))
        begun = time.monotonic()
        await in_any_order(registry)
        took = time.monotonic() - begun
        async with asyncio.timeout(10):
            while not all(listener.is_up_to_date() for listener in listeners):
                await asyncio.sleep(0.01)
        done.set()
        waits = await measuring
        for task in listening:
            task.cancel()
        now = SystemClock().now() + timedelta(0)
        for listener in listeners:
            may = directory.for_agent(listener.agent, now)
            assert listener.knows == {found.id: found.revision for found in may.values()}
        assert took < MOST_SECONDS
        assert waits[int(len(waits) * 0.99)] < MOST_P99_SECONDS


async def test_a_large_apply_does_not_hold_others_up(tmp_path: Path) -> None:
    async with a_registry(tmp_path) as (registry, directory):
        who = agent(agent_id(A_TEST, "n1"), "node:name:n1")
        done = asyncio.Event()
        measuring = asyncio.create_task(latencies(directory, who, done))
        plan = await registry.apply([wanted(number) for number in range(ENTRIES)], by=ROOT)
        changed = [replace(change.entry, hint="new", revision=0) for change in plan.changes]
        await registry.apply(changed, by=ROOT)
        done.set()
        assert len(directory) == ENTRIES
        assert max(await measuring) < MOST_P99_SECONDS
