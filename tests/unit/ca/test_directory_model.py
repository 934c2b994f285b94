"""Whatever happens to entries and aliases, in whatever order: every agent ends with exactly what it may ask for."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ca.agents.model import Agent
from ca.api.sessions import AgentSession
from ca.entries.directory import EntryDirectory
from ca.entries.watch import EntryWatch
from citadel.entry import Entry
from citadel.reserved import agent_id
from citadel.spiffe import SpiffeId
from tests.unit.ca.values import A_TEST, NOW, SERVER, agent, entry

FACTS = ("node:rack:a", "node:rack:b", "node:disk:ssd")
RACKS = (SpiffeId(A_TEST, "/rack-a"), SpiffeId(A_TEST, "/rack-b"))
AGENTS = tuple(
    agent(agent_id(A_TEST, f"n{number}"), f"node:name:n{number}", *facts)
    for number, facts in enumerate(((FACTS[0],), (FACTS[0], FACTS[2]), (FACTS[1],), ()))
)
PARENTS = (*(known.spiffe_id for known in AGENTS), *RACKS)
LIVES = st.none() | st.integers(1, 20).map(lambda seconds: NOW + timedelta(seconds=seconds))


class Connected:
    """An agent with its stream: what it was told, and what it knows by that."""

    def __init__(self, directory: EntryDirectory, who: Agent) -> None:
        self.agent = who
        self.session = AgentSession(agent=who, connected_at=NOW)
        self.watch: EntryWatch = directory.watch(self.session.wake, who)
        self.session.wake.set()
        self.knows: dict[str, int] = {}


class Directory(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = EntryDirectory(trust_domain=A_TEST)
        self.now = NOW
        self.connected: list[Connected] = []
        self.model: dict[str, Entry] = {}
        self.revision = 0

    @initialize()
    def connect_all(self) -> None:
        self.connected = [Connected(self.directory, who) for who in AGENTS]

    @rule(parent=st.sampled_from(PARENTS), expires_at=LIVES)
    def create(self, parent: SpiffeId, expires_at: Any) -> None:
        self._put(entry(f"/w{self.revision}", parent, expires_at=expires_at))

    @rule(rack=st.sampled_from(RACKS), facts=st.sets(st.sampled_from(FACTS), min_size=1), expires_at=LIVES)
    def create_alias(self, rack: SpiffeId, facts: set[str], expires_at: Any) -> None:
        self._put(entry(rack.path, SERVER, *facts, expires_at=expires_at))

    @precondition(lambda self: self.model)
    @rule(data=st.data(), parent=st.sampled_from((*PARENTS, None)), expires_at=LIVES)
    def change(self, data: st.DataObject, parent: SpiffeId | None, expires_at: Any) -> None:
        old = self.model[data.draw(st.sampled_from(sorted(self.model)))]
        changes: dict[str, Any] = {"id": old.id, "revision": old.revision + 1, "expires_at": expires_at}
        if parent is None:  # a workload becomes an alias, or an alias another one
            self._put(entry(RACKS[0].path, SERVER, data.draw(st.sampled_from(FACTS)), **changes))
        else:
            self._put(entry("/moved", parent, **changes))

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        entry_id = data.draw(st.sampled_from(sorted(self.model)))
        del self.model[entry_id]
        self.revision += 1
        self.directory.remove(entry_id, revision=self.revision)

    @rule(seconds=st.integers(1, 5))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        for one in self.connected:
            if one.watch.changes_at is not None and one.watch.changes_at <= self.now:
                one.session.wake.set()

    @rule(number=st.integers(0, len(AGENTS) - 1))
    def hear(self, number: int) -> None:
        """The stream has its turn; between turns any number of changes happen."""
        self._hear(self.connected[number])

    @rule()
    def hear_all(self) -> None:
        for one in self.connected:
            self._hear(one)

    @rule(number=st.integers(0, len(AGENTS) - 1))
    def connect_anew(self, number: int) -> None:
        self.directory.unwatch(self.connected[number].watch)
        self.connected[number] = Connected(self.directory, AGENTS[number])

    @invariant()
    def every_agent_that_hears_knows_what_it_may(self) -> None:
        for one in self.connected:
            if not one.session.wake.is_set():
                assert one.knows == self._may(one.agent)

    def teardown(self) -> None:
        for one in self.connected:
            self._hear(one)
        self.every_agent_that_hears_knows_what_it_may()

    def _put(self, wanted: Entry) -> None:
        self.model[wanted.id] = wanted
        self.revision += 1
        self.directory.put(wanted, revision=self.revision)

    def _hear(self, one: Connected) -> None:
        one.session.wake.clear()
        news = self.directory.news(one.watch, self.now)
        for update in one.session.updates(news=news, bundles={}, revision=self.revision):
            if update.snapshot:
                one.knows.clear()
            assert set(update.removed_entry_ids) <= set(one.knows), "nobody hears of what was never its own"
            for entry_id in update.removed_entry_ids:
                del one.knows[entry_id]
            one.knows.update((message.id, message.revision) for message in update.entries)

    def _may(self, who: Agent) -> dict[str, int]:
        """What the agent may ask for, by looking at everything."""
        alive = [known for known in self.model.values() if not known.has_expired(self.now)]
        racks = {known.spiffe_id for known in alive if known.parent_id == SERVER and known.matches(who.selectors)}
        return {
            known.id: known.revision
            for known in alive
            if known.parent_id != SERVER and known.parent_id in {who.spiffe_id, *racks}
        }


Directory.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestDirectory = Directory.TestCase
