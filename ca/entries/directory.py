"""All entries in memory, indexed by parent: no request waits for the database.

The directory is written only after the store has taken a change, and tells those agents that the change concerns.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime

from ca.agents.model import Agent
from ca.entries.rules import is_alias
from citadel.entry import Entry
from citadel.errors import NotFound, PermissionDenied, Reason
from citadel.spiffe import SpiffeId, TrustDomain


class EntryDirectory:
    """The entries of one trust domain. Lives on one event loop; reading from a worker thread is safe."""

    def __init__(self, *, trust_domain: TrustDomain) -> None:
        self._trust_domain = trust_domain
        self._by_id: dict[str, Entry] = {}
        self._by_parent: defaultdict[SpiffeId, dict[str, Entry]] = defaultdict(dict)
        self._aliases: Mapping[str, Entry] = {}  # replaced, never changed: a worker thread may be reading it
        self._watchers: dict[asyncio.Event, Agent] = {}
        self.revision = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def load(self, entries: Iterable[Entry], *, revision: int) -> None:
        """Fill the directory at the start."""
        for entry in entries:
            self._insert(entry)
        self.revision = revision

    def put(self, entry: Entry, *, revision: int) -> None:
        """Take a created or changed entry, and wake the agents that it concerns."""
        previous = self._by_id.get(entry.id)
        if previous is not None:
            self._take_out(previous)
        self._insert(entry)
        self.revision = revision
        self._wake(entry, *([previous] if previous else []))

    def remove(self, entry_id: str, *, revision: int) -> None:
        """Take an entry out, and wake the agents that it concerns."""
        entry = self._by_id[entry_id]
        self._take_out(entry)
        self.revision = revision
        self._wake(entry)

    def get(self, entry_id: str) -> Entry:
        """The entry with this id. Raises `NotFound` (`entry_not_found`)."""
        try:
            return self._by_id[entry_id]
        except KeyError:
            raise NotFound(Reason.ENTRY_NOT_FOUND, f"there is no entry {entry_id[:100]!r}") from None

    def all(self) -> Mapping[str, Entry]:
        """Every entry by id, in the order of creation."""
        return self._by_id

    def authorized(self, agent: Agent, entry_id: str, now: datetime) -> Entry:
        """The entry, if this agent may ask for it now.

        An unknown entry is refused like a foreign one, so that agents cannot probe for ids.
        """
        entry = self._by_id.get(entry_id)
        if entry is None or not self._concerns(entry, agent, now):
            raise PermissionDenied(
                Reason.ENTRY_NOT_AUTHORIZED,
                f"entry {entry_id[:100]!r} is not one of {agent.spiffe_id}",
                fix="its parent must be this agent, or an alias whose node selectors this agent has",
            )
        if entry.has_expired(now):
            raise PermissionDenied(Reason.ENTRY_EXPIRED, f"entry {entry.id} expired at {entry.expires_at}")
        return entry

    def for_agent(self, agent: Agent, now: datetime) -> dict[str, Entry]:
        """Every workload entry that this agent may ask for now, by id."""
        found: dict[str, Entry] = {}
        for parent in (agent.spiffe_id, *self._aliases_of(agent, now)):
            for entry in self._by_parent.get(parent, {}).values():
                if self._is_workload(entry) and not entry.has_expired(now):
                    found[entry.id] = entry
        return found

    def next_expiry(self, agent: Agent, now: datetime) -> datetime | None:
        """When time alone will change what this agent may ask for: the next end of an entry or alias of it."""
        entries = self.for_agent(agent, now).values()
        aliases = (alias for alias in self._aliases.values() if alias.matches(agent.selectors))
        moments = (entry.expires_at for entry in (*entries, *aliases) if not entry.has_expired(now))
        return min((moment for moment in moments if moment is not None), default=None)

    def watch(self, event: asyncio.Event, agent: Agent) -> None:
        """Set `event` at every change that may concern `agent`."""
        self._watchers[event] = agent

    def unwatch(self, event: asyncio.Event) -> None:
        """Stop setting `event`."""
        self._watchers.pop(event, None)

    def _concerns(self, entry: Entry, agent: Agent, now: datetime | None = None) -> bool:
        if not self._is_workload(entry):
            return False
        return entry.parent_id == agent.spiffe_id or entry.parent_id in self._aliases_of(agent, now)

    def _is_workload(self, entry: Entry) -> bool:
        return not is_alias(entry, self._trust_domain)

    def _aliases_of(self, agent: Agent, now: datetime | None) -> set[SpiffeId]:
        # One step and no further: an alias is matched against facts about the node, never against another alias.
        return {
            alias.spiffe_id
            for alias in self._aliases.values()
            if alias.matches(agent.selectors) and not (now and alias.has_expired(now))
        }

    def _wake(self, *changed: Entry) -> None:
        for event, agent in self._watchers.items():
            if any(not self._is_workload(entry) or self._concerns(entry, agent) for entry in changed):
                event.set()

    def _insert(self, entry: Entry) -> None:
        self._by_id[entry.id] = entry
        self._by_parent[entry.parent_id][entry.id] = entry
        if is_alias(entry, self._trust_domain):
            self._aliases = {**self._aliases, entry.id: entry}

    def _take_out(self, entry: Entry) -> None:
        del self._by_id[entry.id]
        del self._by_parent[entry.parent_id][entry.id]
        if entry.id in self._aliases:
            self._aliases = {other.id: other for other in self._aliases.values() if other.id != entry.id}
        if not self._by_parent[entry.parent_id]:
            del self._by_parent[entry.parent_id]
