"""When agents were last seen: known at once, written soon and seldom, kept over restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta

import pytest

from ca.agents.sightings import Sightings
from ca.store.agents import SqlSightings
from ca.store.database import Database
from citadel.errors import Reason, Unavailable
from citadel.spiffe import SpiffeId
from tests.clock import FakeClock
from tests.csrs import csr
from tests.unit.ca.joiner import Joiner
from tests.unit.ca.values import NODE_1, NODE_2, NOW


class Store:
    """Counts what is written, or refuses it."""

    def __init__(self) -> None:
        self.known: dict[SpiffeId, datetime] = {}
        self.writes = 0
        self.fails = False

    async def last_seen(self) -> Mapping[SpiffeId, datetime]:
        return self.known

    async def note_seen(self, seen: Mapping[SpiffeId, datetime]) -> None:
        if self.fails:
            raise Unavailable(Reason.STORE_UNAVAILABLE, "the disk is full")
        self.writes += 1
        self.known |= seen


class Scene:
    def __init__(self, clock: FakeClock) -> None:
        self.store = Store()
        self.connected: set[SpiffeId] = set()
        self.sightings = Sightings(store=self.store, connected=lambda: self.connected, clock=clock)
        self.running = asyncio.create_task(self.sightings.run())

    async def stop(self) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)


@pytest.fixture
async def scene(clock: FakeClock) -> AsyncIterator[Scene]:
    made = Scene(clock)
    yield made
    await made.stop()


async def test_many_that_come_at_once_are_one_write(scene: Scene, clock: FakeClock) -> None:
    for spiffe_id in (NODE_1, NODE_2, NODE_1):
        scene.sightings.note(spiffe_id)
    assert scene.sightings.of(NODE_1) == NOW
    await clock.advance(10)
    assert (scene.store.known, scene.store.writes) == ({NODE_1: NOW, NODE_2: NOW}, 1)


async def test_an_agent_that_stays_is_written_rarely(scene: Scene, clock: FakeClock) -> None:
    scene.connected.add(NODE_1)
    scene.sightings.note(NODE_1)
    await clock.advance(3600)
    assert 2 <= scene.store.writes <= 8
    assert NOW + timedelta(minutes=45) < scene.store.known[NODE_1] <= NOW + timedelta(hours=1)


async def test_nobody_here_means_nothing_is_written(scene: Scene, clock: FakeClock) -> None:
    await clock.advance(86_400)
    assert scene.store.writes == 0


async def test_a_store_that_refuses_is_written_later(scene: Scene, clock: FakeClock) -> None:
    scene.store.fails = True
    scene.sightings.note(NODE_1)
    await clock.advance(10)
    scene.store.fails = False
    await clock.advance(10)
    scene.sightings.note(NODE_2)
    await clock.advance(10)
    assert scene.store.known == {NODE_1: NOW, NODE_2: NOW + timedelta(seconds=20)}


async def test_a_clean_stop_writes_who_is_here(scene: Scene, clock: FakeClock) -> None:
    scene.connected.add(NODE_1)
    await clock.advance(60)
    await scene.stop()
    assert scene.store.known == {NODE_1: NOW + timedelta(minutes=1)}


async def test_sightings_are_there_after_a_restart_and_never_of_agents_that_are_gone(
    database: Database, clock: FakeClock
) -> None:
    server, store = Joiner(database, clock), SqlSightings(database=database)
    await server.joining.join(await server.token("node-1"), csr())
    assert await store.last_seen() == {}
    await store.note_seen({NODE_1: NOW, NODE_2: NOW})
    await server.joining.join(await server.token("node-1"), csr())  # joining anew changes nothing of it
    again = Sightings(store=store, connected=lambda: (), clock=clock)
    await again.start()
    assert (again.of(NODE_1), again.of(NODE_2)) == (NOW, None)
