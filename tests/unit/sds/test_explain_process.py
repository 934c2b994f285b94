"""Why a process gets an identity or not: from facts to one answer."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from citadel.entry import Entry
from citadel.selector import Selector
from citadel.spiffe import SpiffeId
from sds.insight.process import EntryFacts, Miss, ProcessFacts, StreamFacts, judge_process, misses

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AGENT = SpiffeId.parse("spiffe://a.test/citadel/agent/node-1")


def selectors(*texts: str) -> frozenset[Selector]:
    return frozenset(map(Selector.parse, texts))


def entry(path: str, *wanted: str) -> Entry:
    spiffe_id = SpiffeId.parse(f"spiffe://a.test{path}")
    return Entry(id=path, spiffe_id=spiffe_id, parent_id=AGENT, selectors=selectors(*wanted))


SEEN = selectors("unix:uid:1000", "unix:gid:100", "unix:path:/usr/bin/envoy")
HELD = EntryFacts(entry=entry("/web", "unix:uid:1000"), misses=(), serial="ab", not_after=NOW + timedelta(hours=1))
GOOD = ProcessFacts(uid=1000, executable="/usr/bin/envoy", entries=(HELD,), streams=(StreamFacts(stream_id="1"),))


def missing(path: str, *wanted: str) -> EntryFacts:
    made = entry(path, *wanted)
    return EntryFacts(entry=made, misses=misses(made, SEEN))


BARE = replace(HELD, serial="", not_after=None)
FAR = missing("/far", "unix:uid:1", "unix:gid:1")
NEAR = missing("/near", "unix:uid:1001")
REFUSED = replace(BARE, refusal_reason="entry_expired", refusal="too late", next_try=NOW)


@pytest.mark.parametrize(
    ("facts", "answer", "fix"),
    [
        (replace(GOOD, entries=(), was_heard=False), "has not reached its server", "setting `server`"),
        (replace(GOOD, entries=()), "gives this agent no entry at all", "parent is this agent"),
        (
            replace(GOOD, entries=(FAR, NEAR)),
            "the nearest, spiffe://a.test/near, wants unix:uid:1001 where unix:uid:1000 was seen",
            "selectors",
        ),
        (
            replace(GOOD, entries=(missing("/x", "unix:sha256:" + "0" * 64),)),
            "where nothing of the kind was seen",
            "selectors",
        ),
        (replace(GOOD, entries=(NEAR,), is_complete=False), "looked at again", "selectors"),
        (
            replace(GOOD, entries=(FAR, replace(HELD, is_for_no_pod=True), NEAR)),
            "spiffe://a.test/web has no k8s: selector, and so is not for processes in pods",
            "k8s:ns:NAMESPACE",
        ),
        (
            replace(GOOD, entries=(replace(HELD, is_for_no_pod=True),), unseen="the caller's pod is not known"),
            "the caller's pod is not known",
            "pod_unseen",
        ),
        (
            replace(GOOD, entries=(NEAR,), is_complete=False, unseen="the caller's pod is not known"),
            "no entry matches what is seen, and the caller's pod is not known",
            "pod_unseen",
        ),
        (
            replace(GOOD, executable="", entries=(missing("/x", "unix:path:/bin/x"),)),
            "may not read which file",
            "CAP_SYS_PTRACE",
        ),
        (replace(GOOD, entries=(replace(HELD, has_expired=True), NEAR)), "expired at", "new entry"),
        (replace(GOOD, entries=(REFUSED,)), "was refused: too late (entry_expired); tried again at 2026", "reasons.md"),
        (
            replace(GOOD, entries=(BARE,), trouble="store full"),
            "nothing is signed for this agent now: store full",
            "log",
        ),
        (replace(GOOD, entries=(BARE,), is_connected=False), "the server is away", "bring the server back"),
        (replace(GOOD, entries=(BARE,)), "on its way", "again in a second"),
        (
            replace(GOOD, streams=(StreamFacts(stream_id="3", refusals=(("default", "bad chain"),)),)),
            "refused the secret 'default' on stream 3: bad chain",
            "configuration",
        ),
        (
            replace(GOOD, streams=(StreamFacts(stream_id="3", waiting=("spiffe://a.test/db",)),)),
            "asks for 'spiffe://a.test/db', which this process may not have",
            "SDS names",
        ),
        (replace(GOOD, streams=()), "has no open stream", "socket"),
    ],
)
def test_the_first_obstacle_is_named_with_what_to_do(facts: ProcessFacts, answer: str, fix: str) -> None:
    verdict = judge_process(facts)
    assert not verdict.is_good
    assert answer in verdict.answer
    assert fix in verdict.fix


@pytest.mark.parametrize(
    "facts",
    [
        GOOD,
        replace(GOOD, is_connected=False),  # what is held is served
        replace(GOOD, entries=(NEAR, HELD)),
        replace(GOOD, entries=(replace(HELD, is_for_no_pod=True), HELD)),
        replace(GOOD, entries=(replace(HELD, refusal_reason="store_unavailable", refusal="later"),)),
    ],
)
def test_what_works_is_said_to_work(facts: ProcessFacts) -> None:
    assert judge_process(facts).is_good


def test_each_selector_that_is_missed_stands_beside_what_was_seen_instead() -> None:
    wanted = entry("/web", "unix:uid:1", "unix:gid:100", "unix:user:web")
    assert misses(wanted, SEEN) == (
        Miss(Selector("unix", "uid:1"), Selector("unix", "uid:1000")),
        Miss(Selector("unix", "user:web"), None),
    )


def test_a_label_is_missed_beside_the_same_label_of_another_value() -> None:
    """A pod has many: one of another name says nothing of it."""
    seen = selectors("k8s:pod-label:app:db", "k8s:pod-label:tier:back", "k8s:ns:shop")
    wanted = entry("/web", "k8s:pod-label:app:web", "k8s:pod-label:zone:a")
    assert misses(wanted, seen) == (
        Miss(Selector("k8s", "pod-label:app:web"), Selector("k8s", "pod-label:app:db")),
        Miss(Selector("k8s", "pod-label:zone:a"), None),
    )
