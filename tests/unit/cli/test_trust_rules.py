"""Whether two clusters trust each other: every way in which they may not, told as a real verification tells it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from citadel.bundle import TrustBundle
from citadel.errors import Unauthenticated
from citadel.grade import Grade
from citadel.name_constraints import is_refused_by_envoy
from citadel.spiffe import TrustDomain
from citadel.svid import verify_x509_svid
from cli.trust.check import Check, Side, Subject, Verdict, Way, verdict
from cli.trust.facts import ClusterFacts, ForeignFacts, Source
from cli.trust.rules import compare
from tests.certificates import (
    A_TEST,
    B_TEST,
    NOW,
    Signed,
    bundle,
    excluded,
    intermediate,
    leaf,
    permitted,
    root,
    rsa_key,
)

A, B = Way.A_BELIEVES_B, Way.B_BELIEVES_A
DAY = timedelta(days=1)
ENDPOINT = "https://east.example:8543/"


@dataclass(frozen=True)
class Made:
    """A cluster: what it says of itself, and the keys with which it signs."""

    facts: ClusterFacts
    issuing: Signed

    def but(self, **changes: Any) -> Made:
        return replace(self, facts=replace(self.facts, **changes))

    def federating(self, other: Made, **changes: Any) -> Made:
        """With the bundle that the other has now, fetched, and entries that federate."""
        domain = other.facts.trust_domain
        assert domain is not None
        known = {
            "bundle": TrustBundle(trust_domain=domain, x509_authorities=other.facts.roots, sequence=3),
            "entries": 1,
            "endpoint_url": ENDPOINT,
            "endpoint_profile": "https_web",
        }
        return self.but(foreign={domain: ForeignFacts(**{**known, **changes})})

    def svid(self) -> list[bytes]:
        """A certificate of a workload, as a peer presents it."""
        signed = leaf(self.issuing, f"spiffe://{self.facts.trust_domain}/web")
        return [signed.der, *(each.public_bytes(Encoding.DER) for each in self.facts.issuing)]

    def believes(self, other: Made) -> bool:
        """What a real verification says, by the roots of the peer's own trust domain."""
        own = self.facts.trust_domain
        assert own is not None
        bundles = {own: TrustBundle(trust_domain=own, x509_authorities=self.facts.roots)}
        bundles |= {domain: known.bundle for domain, known in self.facts.foreign.items() if known.bundle is not None}
        try:
            verify_x509_svid(other.svid(), bundles, NOW)
        except Unauthenticated:
            return False
        return True


def cluster(domain: TrustDomain, top: Signed, *between: Signed, issuing: Signed | None = None, **facts: Any) -> Made:
    """`between` stand above the issuing authority, the nearest first; all under `top`."""
    signer = issuing or intermediate(between[0] if between else top, f"issuing {domain}", uri=f"spiffe://{domain}")
    given: dict[str, Any] = {
        "source": Source.SERVER,
        "trust_domain": domain,
        "roots": (top.certificate,),
        "issuing": tuple(each.certificate for each in (signer, *between)),
        "sequence": 3,
        "ahead": timedelta(),
        "endpoint_profile": "https_web",
    }
    return Made(ClusterFacts(**{**given, **facts}), signer)


Expected = Mapping[tuple[Way, Subject], Grade]


@dataclass(frozen=True)
class Row:
    name: str
    a: Made
    b: Made
    expected: Expected = field(default_factory=dict)  # all that is not good
    is_of_certificates: bool = True  # so that verifying one tells the same
    fix: str = ""  # a part of it


def rows() -> Iterator[Row]:
    yield from of_one_domain()
    yield from with_one_root_and_two_domains()
    yield from federated()
    yield from beyond_certificates()


def of_one_domain() -> Iterator[Row]:
    top, other = root("shared", uri=None), root("other")
    a, b = cluster(A_TEST, top), cluster(A_TEST, top)
    yield Row("one domain, one root", a, b)
    yield Row("one domain, one root, three tiers", a, cluster(A_TEST, top, intermediate(top, "middle", path_length=1)))
    yield Row(
        "one domain, two roots",
        a,
        cluster(A_TEST, other),
        {(Way.BOTH, Subject.ROOTS): Grade.BAD, (A, Subject.ROOT): Grade.BAD, (B, Subject.ROOT): Grade.BAD},
        fix="root sign",
    )
    both = (top.certificate, other.certificate)
    yield Row("one domain, two roots, exchanged", a.but(roots=both), cluster(A_TEST, other, roots=both))
    yield Row(
        "one domain, two roots, exchanged one way",
        a.but(roots=both),
        cluster(A_TEST, other),
        {(B, Subject.ROOT): Grade.BAD},
        fix="--own-domain",
    )
    ended = intermediate(top, not_before=NOW - 2 * DAY, not_after=NOW - DAY)
    yield Row(
        "an issuing authority that has ended",
        a,
        cluster(A_TEST, top, issuing=ended),
        {(A, Subject.LIFETIMES): Grade.BAD, (A, Subject.PATH): Grade.BAD},
    )
    early = intermediate(top, not_before=NOW + DAY, not_after=NOW + 2 * DAY)
    yield Row(
        "one that is not valid yet",
        a,
        cluster(A_TEST, top, issuing=early),
        {(A, Subject.LIFETIMES): Grade.BAD, (A, Subject.PATH): Grade.BAD},
    )
    late = intermediate(top, not_before=NOW - 10 * DAY, not_after=NOW + DAY)
    late_row = {(A, Subject.LIFETIMES): Grade.WARNING}
    yield Row("one that should have been replaced", a, cluster(A_TEST, top, issuing=late), late_row)
    old = root("old", not_before=NOW - 2 * DAY, not_after=NOW - DAY)
    yield Row(
        "a root that has ended",
        cluster(A_TEST, old),
        cluster(A_TEST, old),
        {(way, subject): Grade.BAD for way in (A, B) for subject in (Subject.LIFETIMES, Subject.PATH)},
    )
    narrow = intermediate(top, "narrow", path_length=0)
    yield Row(
        "an authority below one that allows none",
        a,
        cluster(A_TEST, top, narrow),
        {(A, Subject.PATH_LENGTH): Grade.BAD},
        fix="root sign",
    )
    no_ca = intermediate(top, constraints=x509.BasicConstraints(ca=False, path_length=None))
    yield Row(
        "an issuing authority that is none",
        a,
        cluster(A_TEST, top, issuing=no_ca),
        {(A, Subject.PATH_LENGTH): Grade.BAD},
    )
    weak = intermediate(top, key=rsa_key(1024))
    yield Row("a weak key", a, cluster(A_TEST, top, issuing=weak), {(A, Subject.PATH): Grade.BAD})
    imposter = root("shared", uri=None)
    yield Row(
        "another root of the same name",
        a,
        cluster(A_TEST, imposter),
        {(Way.BOTH, Subject.ROOTS): Grade.BAD, (A, Subject.ROOT): Grade.BAD, (B, Subject.ROOT): Grade.BAD},
    )


def with_one_root_and_two_domains() -> Iterator[Row]:
    top = root("shared", uri=None)

    def under(domain: TrustDomain, *constraints: tuple[x509.ExtensionType, bool]) -> Made:
        return cluster(domain, top, issuing=intermediate(top, f"issuing {domain}", extra=constraints))

    def both(a: Made, b: Made) -> tuple[Made, Made]:
        return a.federating(b), b.federating(a)

    a, b = under(A_TEST, permitted("a.test")), under(B_TEST, permitted("b.test"))
    yield Row("one root, two domains, constrained", *both(a, b))
    yield Row(
        "one root, two domains, unconstrained",
        *both(a, under(B_TEST)),
        {(A, Subject.FORGERY): Grade.WARNING},
        fix="name constraints",
    )
    yield Row("others are excluded instead", *both(a, under(B_TEST, excluded("a.test"))))
    forbidden = {(A, Subject.CONSTRAINTS): Grade.BAD}
    yield Row("constraints of another domain", *both(a, under(B_TEST, permitted("c.test"))), forbidden)
    yield Row("the own domain is excluded", *both(a, under(B_TEST, excluded("b.test"))), forbidden | forgery(A))
    yield Row("only hosts below the domain", *both(a, under(B_TEST, permitted(".b.test"))), forbidden)
    below = TrustDomain("west.b.test")
    yield Row("a domain below the permitted one", *both(a, under(below, permitted("b.test"))), forbidden)
    yield Row("hosts below a domain", *both(a, under(below, permitted(".b.test"))))
    nobody = {(way, subject): Grade.BAD for way in (A, B) for subject in (Subject.BUNDLE, Subject.ENTRIES)}
    yield Row("one root, two domains, no federation", a, b, nobody, fix="federation create")


def forgery(way: Way) -> Expected:
    return {(way, Subject.FORGERY): Grade.WARNING}


def federated() -> Iterator[Row]:
    top_a, top_b = root("root a"), root("root b", uri="spiffe://b.test")
    a, b = cluster(A_TEST, top_a), cluster(B_TEST, top_b)
    back = b.federating(a)
    yield Row("federated", a.federating(b), back)
    yield Row(
        "federated one way",
        a.federating(b),
        b,
        {(B, Subject.BUNDLE): Grade.BAD, (B, Subject.ENTRIES): Grade.BAD},
        fix="federation create a.test",
    )
    older = bundle(root("gone"), trust_domain=B_TEST, sequence=2)
    lacks = {(A, Subject.ROOT): Grade.BAD, (A, Subject.FRESHNESS): Grade.WARNING}
    yield Row("a stale bundle without the root", a.federating(b, bundle=older), back, lacks, fix="refresh b.test")
    partly = bundle(top_b, root("gone"), trust_domain=B_TEST, sequence=2)
    stale = {(A, Subject.FRESHNESS): Grade.WARNING}
    yield Row("a stale bundle with the root", a.federating(b, bundle=partly), back, stale)
    yield Row(
        "one of the other's future", a.federating(b, bundle=replace(partly, sequence=9)), back, stale, fix="--force"
    )
    yield Row("one of the same sequence", a.federating(b, bundle=replace(partly, sequence=3)), back, stale)
    yield Row("one without a sequence", a.federating(b, bundle=replace(partly, sequence=None)), back, stale)
    yield Row("a bundle that trusts nothing", a.federating(b, bundle=bundle(trust_domain=B_TEST)), back, lacks)
    by_hand = {(A, Subject.ENDPOINT): Grade.WARNING}
    yield Row("set by hand", a.federating(b, endpoint_url="", is_set=True), back, by_hand, fix="federation create")
    never = {(A, Subject.BUNDLE): Grade.BAD, (A, Subject.ENDPOINT): Grade.WARNING}
    down = {"failures": 3, "last_reason": "endpoint_unreachable", "last_error": "refused"}
    yield Row("an endpoint that never answered", a.federating(b, bundle=None, **down), back, never, fix="reached")
    yield Row("an endpoint that is down", a.federating(b, **down), back, by_hand, fix="reached")
    untrusted = {"failures": 3, "last_reason": "endpoint_untrusted", "last_error": "wrong"}
    yield Row("an endpoint that is not believed", a.federating(b, **untrusted), back, by_hand, fix="profile")
    spiffe = a.federating(b, endpoint_profile="https_spiffe")
    yield Row("an endpoint of another profile", spiffe, back, by_hand, fix="anew")


def beyond_certificates() -> Iterator[Row]:
    top = root("shared", uri=None)
    a, b = cluster(A_TEST, top), cluster(A_TEST, top)
    other = cluster(B_TEST, root("root b", uri="spiffe://b.test"))
    none = {(A, Subject.ENTRIES): Grade.BAD}
    forgotten = cluster(A_TEST, root("root a"))
    yield Row(
        "no entry federates",
        forgotten.federating(other, entries=0),
        other.federating(forgotten),
        none,
        is_of_certificates=False,
        fix="entry update",
    )
    absent = {(A, Subject.AUTHORITY): Grade.BAD}
    yield Row("no issuing authority", a, b.but(issuing=()), absent, is_of_certificates=False)
    yield Row("a tainted one", a, b.but(issuing_trouble="its root is tainted"), absent, is_of_certificates=False)
    clock = {(A, Subject.CLOCK): Grade.BAD}
    fast = b.but(ahead=timedelta(seconds=11))
    yield Row("a clock ahead by more than the backdate", a, fast, clock, is_of_certificates=False, fix="NTP")
    yield Row("a clock ahead by the backdate", a, b.but(ahead=timedelta(seconds=10)))
    slow = b.but(ahead=timedelta(minutes=-31))
    early = {(B, subject): Grade.BAD for subject in (Subject.CLOCK, Subject.LIFETIMES, Subject.PATH)}
    yield Row("a clock behind by more than what is left", a, slow, {**clock, **early}, is_of_certificates=False)
    unknown = {(A, Subject.CLOCK): Grade.UNKNOWN, (B, Subject.CLOCK): Grade.UNKNOWN}
    yield Row("a file", a, b.but(source=Source.FILE, ahead=None), unknown)
    old = {**unknown, (Way.BOTH, Subject.AGE): Grade.WARNING}
    yield Row("an old file", a, b.but(source=Source.FILE, ahead=None, age=3 * DAY), old, fix="export")
    folder = b.but(source=Source.FOLDER, ahead=None, trust_domain=None)
    yield Row("a folder of no domain", a, folder, unknown, is_of_certificates=False)
    federated_folder = other.but(source=Source.FOLDER, ahead=None)
    told_nothing = {**unknown, (B, Subject.ROOT): Grade.UNKNOWN}
    yield Row(
        "a folder of another domain",
        forgotten.federating(other),
        federated_folder,
        told_nothing,
        is_of_certificates=False,
    )


TABLE = list(rows())


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_what_is_not_good_is_found_and_nothing_else(row: Row) -> None:
    found = compare(row.a.facts, row.b.facts, now=NOW)
    assert {(check.way, check.subject): check.grade for check in found if check.grade is not Grade.GOOD} == row.expected
    assert [check for check in found if check.grade in (Grade.BAD, Grade.WARNING) and not check.fix] == []
    assert any(row.fix in check.fix for check in found)
    assert [
        check for check in found if check.grade is Grade.UNKNOWN and not (check.fix or check.subject is Subject.CLOCK)
    ] == []
    untold = (B, Subject.ROOT) in row.expected and row.expected[B, Subject.ROOT] is Grade.UNKNOWN
    good = Verdict.UNTOLD if untold else Verdict.WORKS
    assert verdict(found) is (Verdict.FAILS if Grade.BAD in row.expected.values() else good)


@pytest.mark.parametrize("row", [row for row in TABLE if row.is_of_certificates], ids=lambda row: row.name)
def test_the_verdict_is_that_of_a_real_verification(row: Row) -> None:
    found = compare(row.a.facts, row.b.facts, now=NOW)
    assert row.a.believes(row.b) == (verdict([check for check in found if check.way is A]) is Verdict.WORKS)
    assert row.b.believes(row.a) == (verdict([check for check in found if check.way is B]) is Verdict.WORKS)


@pytest.mark.parametrize(
    ("row", "subject", "at"),
    [
        ("federated one way", Subject.BUNDLE, Side.B),
        ("a stale bundle without the root", Subject.ROOT, Side.A),
        ("an endpoint that is down", Subject.ENDPOINT, Side.A),
        ("an issuing authority that has ended", Subject.LIFETIMES, Side.B),
        ("one root, two domains, unconstrained", Subject.FORGERY, Side.B),
        ("a tainted one", Subject.AUTHORITY, Side.B),
        ("one domain, two roots, exchanged one way", Subject.ROOT, Side.BOTH),
        ("a clock ahead by more than the backdate", Subject.CLOCK, Side.BOTH),
        ("an old file", Subject.AGE, Side.B),
        ("a folder of another domain", Subject.ROOT, Side.B),
    ],
)
def test_what_is_to_be_done_has_its_place(row: str, subject: Subject, at: Side) -> None:
    (a, b) = next((each.a, each.b) for each in TABLE if each.name == row)
    found = compare(a.facts, b.facts, now=NOW)
    assert {check.at for check in found if check.subject is subject and check.grade is not Grade.GOOD} == {at}


@pytest.mark.parametrize("name", ["b_c.test", "10.1.2.3"])
def test_names_that_envoy_cannot_compare_with_constraints_are_told(name: str) -> None:
    top, domain = root("shared", uri=None), TrustDomain(name)
    a = cluster(A_TEST, top)
    constrained = cluster(domain, top, issuing=intermediate(top, extra=[permitted(name)]))
    free = cluster(domain, top)
    assert is_refused_by_envoy(domain)
    assert Grade.BAD in grades_of_constraints(a.federating(constrained), constrained)
    assert Grade.BAD not in grades_of_constraints(a.federating(free), free)


def grades_of_constraints(a: Made, b: Made) -> list[Grade]:
    found: list[Check] = compare(a.facts, b.facts, now=NOW)
    return [check.grade for check in found if check.subject is Subject.CONSTRAINTS and check.way is A]
