"""The server's core without doors: what a start that fails leaves, and what is still done while it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, select

from ca.ledger.chain import Log
from ca.settings import ServerSettings
from ca.store.database import Database
from ca.store.notary import SqlNotaryStore
from ca.store.schema import audit
from citadel.clock import SystemClock
from citadel.config.files import ensure_private_dir
from citadel.errors import CitadelError, Reason, Unavailable
from cli.server_core import ServerCore, server_core
from cli.server_starting import StartSeen
from tests.servers import server_settings


class Fence:
    """Refuses one transaction, and lets the `before` that come before it and all after it through."""

    def __init__(self, before: int | None = None) -> None:
        self._left = before

    def check(self, _connection: Connection) -> None:
        if self._left is None:
            return
        self._left -= 1
        if self._left == -1:
            raise Unavailable(Reason.STORE_UNAVAILABLE, "the disk is full")

    def note_lost(self) -> None:
        raise AssertionError("nobody took the store")


@asynccontextmanager
async def running_core(settings: ServerSettings, fence: Fence) -> AsyncIterator[ServerCore]:
    """The core; once it is over no task of it is left."""
    ensure_private_dir(settings.data_dir)
    database, before = Database.open(settings.database_url), asyncio.all_tasks()
    try:
        async with server_core(settings, SystemClock(), database.fenced(fence), StartSeen()) as core:
            yield core
    finally:
        assert asyncio.all_tasks() == before
        await database.close()


async def is_all_signed(settings: ServerSettings) -> bool:
    """Whether each log has a checkpoint over its last row."""
    database = Database.open(settings.database_url)
    try:
        store = SqlNotaryStore(database=database)
        return [await store.unsigned_head(log) for log in Log] == [None] * len(Log)
    finally:
        await database.close()


async def starts(settings: ServerSettings, fence: Fence) -> bool:
    try:
        async with running_core(settings, fence) as core:
            return core.identity.pair() is not None
    except Unavailable:
        return False


@pytest.mark.invariant(12)
async def test_whatever_write_of_a_start_fails_what_was_started_ends_and_the_next_start_goes_on(tmp_path: Path) -> None:
    settings, writes = server_settings(tmp_path), 0
    while not await starts(settings, Fence(writes)):
        assert writes == 0 or await is_all_signed(settings)  # the first one makes the tables
        writes += 1
    assert writes > 10, "some in each stage"


async def test_what_is_told_while_it_ends_is_recorded_and_signed(tmp_path: Path) -> None:
    settings, refusal = server_settings(tmp_path), CitadelError(Reason.REQUEST_MALFORMED, "bad")
    async with running_core(settings, Fence()) as core:
        for _ in range(3):
            core.tally.count_refused("/citadel.v1.Bootstrap/Join", refusal)
    assert await counts(settings, refusal.reason) == [1, 2], "the first at once, the others summed at the end"
    assert await is_all_signed(settings)


async def counts(settings: ServerSettings, reason: Reason) -> list[int]:
    database = Database.open(settings.database_url)
    try:
        query = select(audit.c.count).where(audit.c.reason == reason.value).order_by(audit.c.number)
        async with database.reading() as connection:
            return list(await connection.scalars(query))
    finally:
        await database.close()
