"""Foreign bundles go to those agents alone whose entries federate, and are taken back with the last of these."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from ca.api import update_parts
from ca.api.sessions import AgentSession, SessionBook
from ca.entries.watch import EntryNews
from citadel._wire import agent_api_pb2 as pb
from citadel._wire import types_pb2
from citadel.bundle import TrustBundle
from citadel.entry import Entry
from citadel.reserved import agent_id
from citadel.spiffe import TrustDomain
from tests.unit.ca.values import A_TEST, NOW, agent, entry

OWN = TrustBundle(trust_domain=A_TEST, sequence=1)
B, C, UNKNOWN = (TrustDomain(name) for name in ("b.test", "c.test", "unknown.test"))


class Foreign:
    """Bundles by the names of their domains; looks are counted."""

    def __init__(self) -> None:
        self.known = {name: types_pb2.Bundle(trust_domain=name, json=b"1") for name in ("b.test", "c.test", "d.test")}
        self.version = 1
        self.looks = 0

    def of(self, trust_domain: TrustDomain) -> types_pb2.Bundle | None:
        self.looks += 1
        return self.known.get(trust_domain.name)

    def change(self, name: str, json: bytes | None) -> None:
        self.version += 1
        if json is None:
            del self.known[name]
        else:
            self.known[name] = types_pb2.Bundle(trust_domain=name, json=json)


class Told:
    """One agent's session, and what its agent makes of what it is told."""

    def __init__(self, name: str = "node-1") -> None:
        self.session = AgentSession(agent=agent(agent_id(A_TEST, name)), connected_at=NOW)
        self.foreign = Foreign()
        self.bundles: dict[str, bytes] = {}

    def of(self, changed: Iterable[Entry] = (), gone: Iterable[Entry] = ()) -> list[pb.Update]:
        """What is said after these changes of its entries."""
        news = EntryNews(
            is_everything=False, entries={each.id: each for each in changed}, others=frozenset(each.id for each in gone)
        )
        return self._taken(news)

    def of_everything(self, *entries: Entry) -> list[pb.Update]:
        """What is said where these are all of its entries."""
        return self._taken(EntryNews(is_everything=True, entries={each.id: each for each in entries}))

    def _taken(self, news: EntryNews) -> list[pb.Update]:
        updates = list(self.session.updates(news=news, bundles={A_TEST: OWN}, revision=1, foreign=self.foreign))
        for update in updates:
            self.bundles |= {each.trust_domain: each.json for each in update.bundles}
            for name in update.removed_bundles:
                del self.bundles[name]
        return updates


def federating(*domains: TrustDomain, path: str = "/web") -> Entry:
    return entry(path, federates_with=frozenset(domains))


@pytest.mark.spec("FED-36")
def test_an_agent_is_told_the_bundles_of_those_domains_that_its_entries_federate_with() -> None:
    told = Told()
    told.of_everything(federating(B), entry("/other"))
    assert told.bundles == {"a.test": OWN.to_json(), "b.test": b"1"}


def test_a_domain_of_which_no_bundle_is_known_yet_holds_back_nothing_and_comes_when_it_is_known() -> None:
    told = Told()
    told.of_everything(federating(UNKNOWN, B))
    assert told.bundles.keys() == {"a.test", "b.test"}
    told.foreign.change("unknown.test", b"new")
    [update] = told.of()
    assert [each.json for each in update.bundles] == [b"new"]


@pytest.mark.spec("FED-41")
def test_a_bundle_that_is_gone_is_taken_back_and_told_again_when_it_comes_back() -> None:
    told = Told()
    told.of_everything(federating(B))
    told.foreign.change("b.test", None)
    [update] = told.of()
    assert list(update.removed_bundles) == ["b.test"]
    assert told.of() == []
    told.foreign.change("b.test", b"1")
    told.of()
    assert "b.test" in told.bundles


def test_a_changed_bundle_alone_is_told_and_only_where_somebody_federates_with_it() -> None:
    told, other = Told(), Told()
    told.of_everything(federating(B, C))
    other.of_everything(federating(C))
    for each in (told, other):
        each.foreign.change("b.test", b"2")
    [update] = told.of()
    assert [(each.trust_domain, each.json) for each in update.bundles] == [("b.test", b"2")]
    assert not update.entries
    assert other.of() == []


@pytest.mark.parametrize("way", ["updated", "deleted", "no longer theirs"])
def test_the_bundle_stays_until_the_last_entry_that_federates_is_gone(way: str) -> None:
    def without(leaving: Entry) -> list[pb.Update]:
        match way:
            case "updated":
                return told.of([replace(leaving, federates_with=frozenset(), revision=2)])
            case "deleted":
                return told.of(gone=[leaving])
            case _:
                left.remove(leaving)
                return told.of_everything(*left)

    told, first, second, bystander = Told(), federating(B, C), federating(B, path="/too"), entry("/other")
    left = [first, second, bystander]
    told.of_everything(*left)
    without(first)
    assert told.bundles.keys() == {"a.test", "b.test"}
    without(second)
    assert told.bundles.keys() == {"a.test"}
    assert not told.session.federates_with(B)


def test_an_entry_that_is_told_again_counts_once() -> None:
    told, web = Told(), federating(B)
    told.of_everything(web)
    told.of([replace(web, hint="new", revision=2)])
    told.of([replace(web, hint="newer", revision=3)])
    told.of(gone=[web])
    assert told.bundles.keys() == {"a.test"}


def test_an_entry_may_change_whom_it_federates_with() -> None:
    told, web = Told(), federating(B)
    told.of_everything(web)
    [update] = told.of([replace(web, federates_with=frozenset({C}), revision=2)])
    assert ([each.trust_domain for each in update.bundles], list(update.removed_bundles)) == (["c.test"], ["b.test"])


def test_entries_and_bundles_that_are_too_much_for_one_message_come_in_parts_that_belong_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(update_parts, "_BYTES_PER_PART", 1000)
    told = Told()
    for name in told.foreign.known:
        told.foreign.change(name, b"x" * 700)
    entries = [federating(*map(TrustDomain, told.foreign.known), path=f"/w{number}") for number in range(20)]
    updates = told.of_everything(*entries)
    assert [each.more for each in updates] == [True] * (len(updates) - 1) + [False]
    assert max(each.ByteSize() for each in updates) < 1200
    assert told.bundles.keys() == {"a.test", "b.test", "c.test", "d.test"}
    assert sum(len(each.entries) for each in updates) == 20


async def test_only_those_who_federate_with_a_domain_are_woken_for_it() -> None:
    book = SessionBook(most_silent=2, hello_timeout=timedelta(seconds=10))
    partners, others = [Told(f"b{number}") for number in range(40)], [Told(f"c{number}") for number in range(40)]
    for told in (*partners, *others):
        told.of_everything(federating(B if told in partners else C))
        book.open(told.session)
    book.wake_partners_of(B)
    for _ in range(100):
        await asyncio.sleep(0)
    assert all(told.session.wake.is_set() for told in partners)
    assert not any(told.session.wake.is_set() for told in others)


async def test_whoever_waits_to_be_woken_for_something_else_is_not_forgotten() -> None:
    book = SessionBook(most_silent=2, hello_timeout=timedelta(seconds=10))
    told = [Told(f"n{number}") for number in range(40)]
    for each in told:
        each.of_everything(federating(B))
        book.open(each.session)
    book.wake_all()
    book.wake_partners_of(B)
    for _ in range(100):
        await asyncio.sleep(0)
    assert all(each.session.wake.is_set() for each in told)


def entries_of(count: int) -> Iterator[Entry]:
    yield from (entry(f"/w{number}") for number in range(count))


def test_entries_that_federate_with_nobody_are_not_remembered_for_it() -> None:
    told = Told()
    told.of_everything(*entries_of(1000), federating(B))
    assert len(told.session._partners._entries) == 1


def test_bundles_are_looked_at_only_where_one_or_whom_the_agent_federates_with_has_changed() -> None:
    told, web = Told(), federating(B, C)
    told.of_everything(web)
    looks = told.foreign.looks
    told.of([entry("/other")])
    told.of()
    assert told.foreign.looks == looks
    told.of([replace(web, federates_with=frozenset({B}), revision=2)])
    assert told.foreign.looks == looks + 1
