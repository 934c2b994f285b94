"""Who may ask for which entry, and who hears of a change."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from ca.agents.model import Agent
from ca.entries.directory import EntryDirectory
from citadel.entry import Entry
from citadel.errors import NotFound, PermissionDenied, Reason
from citadel.spiffe import SpiffeId
from tests.unit.ca.values import A_TEST, NODE_1, NODE_2, NOW, SERVER, agent, entry

RACK = SpiffeId(A_TEST, "/nodes/rack-a")
SECOND = timedelta(seconds=1)
IN_RACK = agent(NODE_1, "node:name:node-1", "node:rack:a", "node:disk:ssd")
ELSEWHERE = agent(NODE_2, "node:name:node-2", "node:rack:b")


def directory(*entries: Entry) -> EntryDirectory:
    made = EntryDirectory(trust_domain=A_TEST)
    made.load(entries, revision=len(entries))
    return made


def alias(*facts: str, path: str = "/nodes/rack-a", **changes: object) -> Entry:
    return entry(path, SERVER, *(facts or ("node:rack:a",)), **changes)


def may_ask(entries: EntryDirectory, who: Agent, wanted: Entry) -> bool:
    """Both answers of the directory must be the same: what an agent is told, and what it is given."""
    listed = wanted.id in entries.for_agent(who, NOW)
    try:
        assert entries.authorized(who, wanted.id, NOW) == wanted
    except PermissionDenied:
        assert not listed
        return False
    assert listed
    return True


def test_an_agent_may_ask_for_the_entries_under_it_and_for_no_others() -> None:
    mine, other = entry("/mine", NODE_1), entry("/other", NODE_2)
    entries = directory(mine, other)
    assert may_ask(entries, IN_RACK, mine)
    assert not may_ask(entries, IN_RACK, other)
    assert may_ask(entries, ELSEWHERE, other)


def test_an_entry_under_an_alias_is_for_the_agents_that_the_alias_matches() -> None:
    web = entry("/web", RACK)
    entries = directory(alias("node:rack:a", "node:disk:ssd"), web)
    assert may_ask(entries, IN_RACK, web)
    assert not may_ask(entries, ELSEWHERE, web)
    assert not may_ask(entries, agent(NODE_2, "node:rack:a"), web), "all selectors must match"


def test_several_aliases_may_share_one_id() -> None:
    web = entry("/web", RACK)
    entries = directory(alias("node:rack:a"), alias("node:rack:b"), web)
    assert may_ask(entries, IN_RACK, web)
    assert may_ask(entries, ELSEWHERE, web)


def test_there_is_no_recursion_through_aliases() -> None:
    # RACK is an alias of the agent. INNER is an entry under it, and so an identity of a workload: that something has
    # INNER as parent must give the agent nothing, or a chain of entries would widen what a node may ask for.
    inner = entry("/inner", RACK)
    deeper = entry("/deeper", SpiffeId(A_TEST, "/inner"))
    entries = directory(alias(), inner, deeper)
    assert may_ask(entries, IN_RACK, inner)
    assert not may_ask(entries, IN_RACK, deeper)


def test_a_workload_with_the_id_of_a_parent_is_no_alias() -> None:
    workload = entry("/nodes/rack-a", NODE_1)
    below = entry("/web", RACK)
    assert not may_ask(directory(workload, below), IN_RACK, below)


def test_an_alias_itself_is_nobody_s_to_ask_for() -> None:
    node = alias()
    assert not may_ask(directory(node), IN_RACK, node)


def test_an_entry_that_expired_is_refused_and_no_longer_listed() -> None:
    brief = entry(expires_at=NOW + SECOND)
    entries = directory(brief)
    assert entries.authorized(IN_RACK, brief.id, NOW) == brief
    with pytest.raises(PermissionDenied) as refused:
        entries.authorized(IN_RACK, brief.id, NOW + SECOND)
    assert refused.value.reason is Reason.ENTRY_EXPIRED
    assert entries.for_agent(IN_RACK, NOW + SECOND) == {}


def test_an_alias_that_expired_matches_nobody() -> None:
    web = entry("/web", RACK)
    entries = directory(alias(expires_at=NOW + SECOND), web)
    assert may_ask(entries, IN_RACK, web)
    with pytest.raises(PermissionDenied) as refused:
        entries.authorized(IN_RACK, web.id, NOW + SECOND)
    assert refused.value.reason is Reason.ENTRY_NOT_AUTHORIZED
    assert entries.for_agent(IN_RACK, NOW + SECOND) == {}


def test_an_unknown_entry_is_refused_like_a_foreign_one() -> None:
    foreign = entry("/other", NODE_2)
    entries = directory(foreign)
    refusals = []
    for entry_id in (foreign.id, "made-up"):
        with pytest.raises(PermissionDenied) as refused:
            entries.authorized(IN_RACK, entry_id, NOW)
        refusals.append((refused.value.reason, refused.value.message.replace(entry_id, "X"), refused.value.fix))
    assert refusals[0] == refusals[1]


def test_a_changed_entry_moves_to_its_new_parent() -> None:
    before = entry("/web", NODE_1)
    entries = directory(before)
    after = entry("/web", NODE_2, id=before.id, revision=2)
    entries.put(after, revision=2)
    assert not may_ask(entries, IN_RACK, after)
    assert may_ask(entries, ELSEWHERE, after)
    assert (len(entries), entries.revision) == (1, 2)


def test_a_removed_entry_is_gone() -> None:
    web = entry()
    entries = directory(web)
    entries.remove(web.id, revision=2)
    assert not may_ask(entries, IN_RACK, web)
    with pytest.raises(NotFound):
        entries.get(web.id)


@contextmanager
def woken(entries: EntryDirectory) -> Iterator[set[str]]:
    """Which of the two agents the block wakes."""
    names: set[str] = set()
    watches = {
        "node-1": entries.watch(asyncio.Event(), IN_RACK),
        "node-2": entries.watch(asyncio.Event(), ELSEWHERE),
    }
    yield names
    names.update(name for name, watch in watches.items() if watch.event.is_set())
    for watch in watches.values():
        entries.unwatch(watch)


async def test_a_change_wakes_only_the_agent_that_it_concerns() -> None:
    web = entry("/web", NODE_1)
    entries = directory(alias())
    with woken(entries) as at_creation:
        entries.put(web, revision=2)
    with woken(entries) as at_removal:
        entries.remove(web.id, revision=3)
    with woken(entries) as through_alias:
        entries.put(entry("/shared", RACK), revision=4)
    assert at_creation == at_removal == through_alias == {"node-1"}


async def test_an_entry_that_moves_wakes_the_agent_that_loses_it_too() -> None:
    web = entry("/web", NODE_1)
    entries = directory(web)
    with woken(entries) as names:
        entries.put(entry("/web", NODE_2, id=web.id, revision=2), revision=2)
    assert names == {"node-1", "node-2"}


async def test_an_alias_wakes_the_agents_that_gain_or_lose_by_it() -> None:
    node = alias()
    entries = directory(entry("/web", RACK))
    with woken(entries) as at_creation:
        entries.put(node, revision=2)
    with woken(entries) as at_removal:
        entries.remove(node.id, revision=3)
    assert at_creation == at_removal == {"node-1"}


async def test_who_no_longer_watches_is_not_woken() -> None:
    entries, event = directory(), asyncio.Event()
    watch = entries.watch(event, IN_RACK)
    entries.unwatch(watch)
    entries.unwatch(watch)
    entries.put(entry(), revision=1)
    assert not event.is_set()


async def test_a_worker_thread_reads_while_aliases_come_and_go() -> None:
    web = entry("/web", RACK)
    entries = directory(*(alias(path=f"/nodes/{number}") for number in range(100)), alias(), web)
    done = asyncio.Event()

    def read() -> int:
        reads = 0
        while not done.is_set():
            assert entries.authorized(IN_RACK, web.id, NOW) == web
            reads += 1
        return reads

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        reading = asyncio.create_task(asyncio.to_thread(read))
        for revision in range(300):
            node = alias(path="/nodes/passing")
            entries.put(node, revision=revision)
            await asyncio.sleep(0)
            entries.remove(node.id, revision=revision)
    finally:
        done.set()
        sys.setswitchinterval(interval)
    assert await reading > 0
