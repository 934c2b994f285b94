"""All entries in memory, indexed by parent: no request waits for the database.

The directory is written only after the store has taken a change, and tells those agents that the change concerns. What
a change costs depends on whom it concerns, not on how many entries or agents there are.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from ca.agents.model import Agent
from ca.entries.downstream import DownstreamEntries
from ca.entries.federating import FederatingEntries
from ca.entries.managed import ManagedEntries
from ca.entries.ordered import Cursor, OrderedEntries
from ca.entries.sharing import SharedParts
from ca.entries.watch import EntryNews, EntryWatch, Watches
from citadel.entry import Entry
from citadel.errors import NotFound, PermissionDenied, Reason
from citadel.reserved import server_id
from citadel.selector import Selector
from citadel.spiffe import SpiffeId, TrustDomain


class EntryDirectory:
    """The entries of one trust domain. Lives on one event loop; `authorized` may be asked from a worker thread."""

    def __init__(self, *, trust_domain: TrustDomain) -> None:
        self._server = server_id(trust_domain)
        self._by_id: dict[str, Entry] = {}
        self._by_parent: defaultdict[SpiffeId, dict[str, Entry]] = defaultdict(dict)
        # Each alias under the least of its selectors, which its nodes must have. Tuples that are replaced and never
        # changed: a worker thread may be reading one.
        self._aliases: dict[Selector, tuple[Entry, ...]] = {}
        self._ordered = OrderedEntries()
        self._federating = FederatingEntries()
        self._shared = SharedParts()
        self._watches = Watches()
        self.downstream = DownstreamEntries()
        self.managed = ManagedEntries()
        self.revision = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def shared(self, entry: Entry) -> Entry:
        """The same entry, made of parts that the directory has already where they are equal."""
        return self._shared.of(entry)

    def load(self, entries: Iterable[Entry], *, revision: int) -> None:
        """Fill the directory at the start; the entries are best `shared` while they are read."""
        for entry in entries:
            self._insert(entry)
        self._ordered.load(self._by_id.values())
        self.revision = revision

    def put(self, entry: Entry, *, revision: int) -> None:
        """Take a created or changed entry, and wake the agents that it concerns."""
        entry = self._shared.of(entry)
        previous = self._by_id.get(entry.id)
        self._insert(entry)
        if previous is not None:  # afterwards: a worker thread must never find neither
            self._take_out(previous)
        self._ordered.put(entry)
        self.revision = revision
        self._tell(*([previous] if previous else []), entry)

    def remove(self, entry_id: str, *, revision: int) -> None:
        """Take an entry out, and wake the agents that it concerns."""
        entry = self._by_id[entry_id]
        del self._by_id[entry_id]
        self._take_out(entry)
        self._ordered.remove(entry)
        self.revision = revision
        self._tell(entry)

    def get(self, entry_id: str) -> Entry:
        """The entry with this id. Raises `NotFound` (`entry_not_found`)."""
        try:
            return self._by_id[entry_id]
        except KeyError:
            raise NotFound(Reason.ENTRY_NOT_FOUND, f"there is no entry {entry_id[:100]!r}") from None

    def all(self) -> Mapping[str, Entry]:
        """Every entry by id."""
        return self._by_id

    def listed(self, *, after: Cursor | None = None) -> Iterator[Entry]:
        """The entries in the order of creation, from behind `after`. Not to be held over an `await`."""
        return self._ordered.after(after)

    def under(self, parent: SpiffeId) -> Mapping[str, Entry]:
        """The entries with this very parent, by id."""
        return self._by_parent.get(parent, {})

    def federating(self, trust_domain: TrustDomain) -> Mapping[str, Entry]:
        """The entries that federate with this foreign trust domain, by id."""
        return self._federating.of(trust_domain)

    def authorized(self, agent: Agent, entry_id: str, now: datetime) -> Entry:
        """The entry, if this agent may ask for it now.

        An unknown entry is refused like a foreign one, so that agents cannot probe for ids.
        """
        entry = self._by_id.get(entry_id)
        if entry is None or not self._is_among(entry, self._parents_of(agent, now)):
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
        return {
            entry.id: entry
            for parent in self._parents_of(agent, now)
            for entry in self.under(parent).values()
            if self._is_workload(entry) and not entry.has_expired(now)
        }

    def watch(self, event: asyncio.Event, agent: Agent) -> EntryWatch:
        """Set `event` at every change that may concern `agent`, until `unwatch`; `news` tells what changed."""
        watch = EntryWatch(agent=agent, event=event)
        self._watches.add(watch, self._parents_of(agent, None))
        return watch

    def unwatch(self, watch: EntryWatch) -> None:
        """End a watch."""
        self._watches.remove(watch)

    def news(self, watch: EntryWatch, now: datetime) -> EntryNews:
        """What changed for the agent of `watch` since the last call; everything at the first."""
        noted, agent = watch.take(now), watch.agent
        if noted is None:
            entries = self.for_agent(agent, now)
            aliases = (alias for alias in self._aliases_of(agent) if not alias.has_expired(now))
            ends = (entry.expires_at for entry in (*entries.values(), *aliases))
            watch.expect(min((end for end in ends if end is not None), default=None), instead=True)
            return EntryNews(is_everything=True, entries=entries)
        parents = self._parents_of(agent, now)
        found = (self._by_id[entry_id] for entry_id in noted if entry_id in self._by_id)
        mine = {e.id: e for e in found if self._is_among(e, parents) and not e.has_expired(now)}
        for entry in mine.values():
            watch.expect(entry.expires_at)
        return EntryNews(is_everything=False, entries=mine, others=frozenset(noted.difference(mine)))

    def _is_among(self, entry: Entry, parents: frozenset[SpiffeId]) -> bool:
        return entry.parent_id in parents and self._is_workload(entry)

    def _is_workload(self, entry: Entry) -> bool:
        return entry.parent_id != self._server  # otherwise it is an alias, see `ca.entries.rules.is_alias`

    def _parents_of(self, agent: Agent, now: datetime | None) -> frozenset[SpiffeId]:
        # One step and no further: an alias is matched against facts about the node, never against another alias.
        aliases = (alias for alias in self._aliases_of(agent) if not (now and alias.has_expired(now)))
        return frozenset((agent.spiffe_id, *(alias.spiffe_id for alias in aliases)))

    def _aliases_of(self, agent: Agent) -> Iterator[Entry]:
        for fact in agent.selectors:
            for alias in self._aliases.get(fact, ()):
                if alias.matches(agent.selectors):
                    yield alias

    def _tell(self, *changed: Entry) -> None:
        self.downstream.tell(changed)
        for entry in changed:
            if self._is_workload(entry):
                for watch in self._watches.under(entry.parent_id):
                    watch.note(entry.id)
                continue
            for watch in self._watches.matched_by(entry):
                self._watches.add(watch, self._parents_of(watch.agent, None))
                watch.note_everything()

    def _insert(self, entry: Entry) -> None:
        self._by_id[entry.id] = entry
        self._by_parent[entry.parent_id][entry.id] = entry
        self._federating.put(entry)
        self.managed.put(entry)
        if self._is_workload(entry):
            self.downstream.insert(entry)
        else:
            key = min(entry.selectors)
            self._aliases[key] = (*self._aliases.get(key, ()), entry)

    def _take_out(self, entry: Entry) -> None:
        self._federating.take_out(entry)
        self.managed.take_out(entry)
        bucket = self._by_parent[entry.parent_id]
        if bucket[entry.id] is entry:
            del bucket[entry.id]
        if not bucket:
            del self._by_parent[entry.parent_id]
        self.downstream.take_out(entry)
        if not self._is_workload(entry):
            key = min(entry.selectors)
            rest = tuple(other for other in self._aliases[key] if other is not entry)
            if rest:
                self._aliases[key] = rest
            else:
                del self._aliases[key]
