"""What one agent has not heard of yet, noted as it happens: the work of a change is that of whom it concerns."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

from ca.agents.model import Agent
from citadel.entry import Entry
from citadel.selector import Selector
from citadel.spiffe import SpiffeId

K = TypeVar("K")

_MOST_NOTED: Final = 1000  # from here on, looking at everything is no dearer than the notes, and bounded in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryNews:
    """What an agent may ask for now among what changed: all of it where `is_everything`.

    `others` are changed entries that are not, or no longer, this agent's to ask for.
    """

    is_everything: bool
    entries: Mapping[str, Entry]
    others: frozenset[str] = frozenset()


class EntryWatch:
    """One agent's notes. `event` is set whenever there is something new; its owner clears it before it asks."""

    def __init__(self, *, agent: Agent, event: asyncio.Event) -> None:
        self.agent = agent
        self.event = event
        self.parents: frozenset[SpiffeId] = frozenset()  # entries under these concern the agent
        self.changes_at: datetime | None = None  # when time alone will change what the agent may ask for
        self._noted: set[str] | None = None

    def note(self, entry_id: str) -> None:
        """This entry concerns the agent, before or after its change."""
        if self._noted is not None:
            self._noted.add(entry_id)
            if len(self._noted) > _MOST_NOTED:
                self._noted = None
        self.event.set()

    def note_everything(self) -> None:
        """What concerns the agent is no longer the same."""
        self._noted = None
        self.event.set()

    def take(self, now: datetime) -> set[str] | None:
        """The entries that were noted since the last call; None for all that there are."""
        noted = self._noted
        if self.changes_at is not None and self.changes_at <= now:
            noted = None
        self._noted = set()
        return noted

    def expect(self, moment: datetime | None, *, instead: bool = False) -> None:
        """Look at everything again at `moment`, if that is earlier than what is expected; or `instead` of it."""
        if instead or self.changes_at is None or (moment is not None and moment < self.changes_at):
            self.changes_at = moment


class Watches:
    """All watches, found by the parent that an entry has, and by a fact about their nodes."""

    def __init__(self) -> None:
        self._by_parent: defaultdict[SpiffeId, dict[EntryWatch, None]] = defaultdict(dict)
        self._by_fact: defaultdict[Selector, dict[EntryWatch, None]] = defaultdict(dict)

    def add(self, watch: EntryWatch, parents: frozenset[SpiffeId]) -> None:
        """Begin with this watch, or give it other parents."""
        self.remove(watch)
        watch.parents = parents
        for parent in parents:
            self._by_parent[parent][watch] = None
        for fact in watch.agent.selectors:
            self._by_fact[fact][watch] = None

    def remove(self, watch: EntryWatch) -> None:
        """Forget this watch."""
        for parent in watch.parents:
            _drop(self._by_parent, parent, watch)
        for fact in watch.agent.selectors:
            _drop(self._by_fact, fact, watch)

    def under(self, parent: SpiffeId) -> Iterator[EntryWatch]:
        """Those that an entry of this parent concerns."""
        yield from self._by_parent.get(parent, ())

    def matched_by(self, alias: Entry) -> list[EntryWatch]:
        """Those whose nodes this alias names."""
        rarest = min((self._by_fact.get(fact, {}) for fact in alias.selectors), key=len, default={})
        return [watch for watch in rarest if alias.matches(watch.agent.selectors)]


def _drop(index: dict[K, dict[EntryWatch, None]], key: K, watch: EntryWatch) -> None:
    found = index.get(key)
    if found is not None:
        found.pop(watch, None)
        if not found:
            del index[key]
