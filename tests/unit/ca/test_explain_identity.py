"""Why an identity is or is not issued: from facts to one answer."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ca.insight.identity import judge_identity
from ca.insight.identity_facts import Grant, GrantingAgent, IdentityFacts, IssuedRecord, RefusalRecord
from ca.insight.near import near_misses
from citadel.entry import Entry
from citadel.selector import Selector
from citadel.spiffe import SpiffeId, TrustDomain

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WEB = SpiffeId.parse("spiffe://a.test/web")
AGENT = SpiffeId.parse("spiffe://a.test/citadel/agent/node-1")
ENTRY = Entry(id="e1", spiffe_id=WEB, parent_id=AGENT, selectors=frozenset({Selector("unix", "uid:1")}), revision=7)
GOOD_AGENT = GrantingAgent(spiffe_id=AGENT, connected=True, acknowledged_revision=7, needed_revision=7)
ISSUED = IssuedRecord(serial="ab", requested_by=str(AGENT), issued_at=NOW, not_after=NOW + timedelta(hours=1))
REFUSAL = RefusalRecord(
    at=NOW + timedelta(seconds=1),
    who=str(AGENT),
    what="svid.sign",
    target=str(WEB),
    reason="csr_malformed",
    detail="no",
)
GOOD = IdentityFacts(
    spiffe_id=WEB,
    trust_domain=TrustDomain("a.test"),
    now=NOW,
    grants=(Grant(entry=ENTRY, agents=(GOOD_AGENT,)),),
    last_issued=ISSUED,
    holders=("node-1/1",),
)


def with_agent(**changes: object) -> IdentityFacts:
    return replace(GOOD, grants=(Grant(entry=ENTRY, agents=(replace(GOOD_AGENT, **changes),)),))


def with_entry(**changes: object) -> IdentityFacts:
    return replace(GOOD, grants=(Grant(entry=replace(ENTRY, **changes), agents=(GOOD_AGENT,)),))


@pytest.mark.parametrize(
    ("facts", "answer", "fix"),
    [
        (replace(GOOD, spiffe_id=SpiffeId.parse("spiffe://b.test/web")), "issues identities of a.test only", "b.test"),
        (
            replace(GOOD, spiffe_id=SpiffeId.parse("spiffe://b.test/web"), near_misses=(WEB,)),
            "a.test only",
            "did you mean spiffe://a.test/web?",
        ),
        (replace(GOOD, spiffe_id=AGENT), "Citadel's own", "status"),
        (
            replace(GOOD, without_bundle=(TrustDomain("b.test"), TrustDomain("c.test"))),
            "refuses everybody of b.test, c.test",
            "federation create b.test",
        ),
        (replace(GOOD, without_bundle=(TrustDomain("b.test"),), holders=()), "no process asks for it", "--pid"),
        (replace(GOOD, grants=()), "no entry grants", "entry create --spiffe-id spiffe://a.test/web"),
        (replace(GOOD, grants=(), near_misses=(SpiffeId.parse("spiffe://a.test/Web"),)), "no entry", "a.test/Web?"),
        (with_entry(expires_at=NOW), "has expired", "new entry"),
        (with_agent(joined=False), "has not joined: spiffe://a.test/citadel/agent/node-1", "join it"),
        (replace(GOOD, grants=(Grant(entry=ENTRY, agents=()),)), "no agent belongs to the parent", "alias"),
        (with_agent(banned=True), "is banned", "lift the ban"),
        (with_agent(connected=False), "not connected", "/ready"),
        (with_agent(acknowledged_revision=6), "stands at revision 6 and needs 7", "log of that agent"),
        (
            replace(GOOD, last_issued=None, last_refusal=REFUSAL),
            "the last refusal of its agent, at 2026-01-01T00:00:01+00:00, says: no (csr_malformed)",
            "reasons.md",
        ),
        (replace(GOOD, last_issued=None), "no certificate was ever issued", "log of that agent"),
        (replace(GOOD, now=NOW + timedelta(hours=2)), "its last certificate has ended", "log of that agent"),
        (replace(GOOD, refusals=(("node-1/1", "bad key"),)), "node-1/1 refused it: bad key", "proxy show node-1/1"),
        (replace(GOOD, holders=()), "no process asks for it", "explain --pid"),
    ],
)
def test_the_first_obstacle_is_named_with_what_to_do(facts: IdentityFacts, answer: str, fix: str) -> None:
    verdict = judge_identity(facts)
    assert not verdict.is_good
    assert answer in verdict.answer
    assert fix in verdict.fix


@pytest.mark.parametrize(
    "facts",
    [
        GOOD,
        replace(GOOD, last_refusal=REFUSAL),  # of another entry of the agent
        replace(
            GOOD,
            grants=(
                Grant(entry=replace(ENTRY, expires_at=NOW), agents=()),
                Grant(entry=ENTRY, agents=(replace(GOOD_AGENT, banned=True), GOOD_AGENT)),
            ),
        ),  # one good way is enough
    ],
)
def test_what_works_is_said_to_work(facts: IdentityFacts) -> None:
    verdict = judge_identity(facts)
    assert (verdict.is_good, verdict.fix) == (True, "")
    assert "1 stream(s)" in verdict.answer


@pytest.mark.parametrize(
    ("wanted", "granted", "found"),
    [
        ("spiffe://b.test/web", ["/web", "/db"], ["/web"]),
        ("spiffe://a.test/WEB", ["/web", "/wep"], ["/web"]),
        ("spiffe://a.test/ns/prod/sa/revews", ["/ns/prod/sa/reviews", "/ns/prod/sa/ratings"], ["/ns/prod/sa/reviews"]),
        ("spiffe://a.test/web", ["/something/else"], []),
        ("spiffe://a.test/web", [], []),
    ],
)
def test_ids_that_look_alike_are_found(wanted: str, granted: list[str], found: list[str]) -> None:
    ids = [SpiffeId.parse(f"spiffe://a.test{path}") for path in granted]
    assert [near.path for near in near_misses(SpiffeId.parse(wanted), ids)] == found


def test_looking_for_likeness_stays_cheap_among_many() -> None:
    ids = [SpiffeId.parse(f"spiffe://a.test/ns/n{number}/sa/web") for number in range(20_000)]
    near = near_misses(SpiffeId.parse("spiffe://a.test/ns/n7x/sa/web"), ids)
    assert len(near) == 3
