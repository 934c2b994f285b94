"""Changing entries: checked by the rules, made durable, shown to the directory, in that order, one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol
from uuid import uuid4

import structlog

from ca.entries.directory import EntryDirectory
from ca.entries.rules import check_entry
from citadel.clock import Clock
from citadel.entry import Entry
from citadel.spiffe import TrustDomain
from citadel.tasks import to_its_end

_log = structlog.get_logger(__name__)


class EntryStore(Protocol):
    """Where entries are durable."""

    async def load(self) -> tuple[Sequence[Entry], int]:
        """Every entry in the order of creation, and the revision that they stand at."""
        ...

    async def create(self, entry: Entry) -> int:
        """Insert; returns the new revision.

        Raises `AlreadyExists` (`entry_duplicate`), naming the id of the entry with the same identity, parent and
        selectors.
        """
        ...

    async def delete(self, entry: Entry) -> int:
        """Delete; returns the new revision."""
        ...


class EntryRegistry:
    """The only writer of entries."""

    def __init__(
        self, *, trust_domain: TrustDomain, store: EntryStore, directory: EntryDirectory, clock: Clock
    ) -> None:
        self._trust_domain = trust_domain
        self._store = store
        self._directory = directory
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()

    async def start(self) -> None:
        """Fill the directory from the store."""
        entries, revision = await self._store.load()
        self._directory.load(entries, revision=revision)

    async def create(self, wanted: Entry) -> Entry:
        """Add an entry; its id, revision and time of creation are set here."""
        return await to_its_end(self._create(wanted))

    async def delete(self, entry_id: str) -> Entry:
        """Remove an entry; nothing new is issued or served for it from here on."""
        return await to_its_end(self._delete(entry_id))

    async def _create(self, wanted: Entry) -> Entry:
        now = self._clock.now()
        check_entry(wanted, trust_domain=self._trust_domain, now=now)
        async with self._one_at_a_time:
            entry = replace(wanted, id=str(uuid4()), revision=1, created_at=now)
            revision = await self._store.create(entry)
            self._directory.put(entry, revision=revision)
        _log.info("entry created", entry=entry.id, spiffe_id=str(entry.spiffe_id), parent=str(entry.parent_id))
        return entry

    async def _delete(self, entry_id: str) -> Entry:
        async with self._one_at_a_time:
            entry = self._directory.get(entry_id)
            revision = await self._store.delete(entry)
            self._directory.remove(entry_id, revision=revision)
        _log.info("entry deleted", entry=entry.id, spiffe_id=str(entry.spiffe_id))
        return entry
