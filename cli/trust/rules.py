"""From the facts of two clusters to what holds between them (pure).

Mutual TLS between them works where each believes the certificates of the other, so most is looked at once for each way:
a `believer`, with the trust that its proxies hold, and a `peer`, whose authority signs.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from citadel.grade import Grade
from cli.trust.check import Check, Side, Subject, Way
from cli.trust.facts import ClusterFacts
from cli.trust.federation import federation_checks
from cli.trust.path import path_checks
from cli.trust.shared import EXCHANGE, are_of_one_domain, counted, domain_of

_OLD: Final = timedelta(days=1)


def compare(a: ClusterFacts, b: ClusterFacts, *, now: datetime) -> list[Check]:
    """Everything that is looked at, in the order in which to read it; `now` is the clock here."""
    return [
        *_domains_and_roots(a, b),
        *_ages(a, b),
        *_believing(a, b, Way.A_BELIEVES_B, now),
        *_believing(b, a, Way.B_BELIEVES_A, now),
    ]


def _domains_and_roots(a: ClusterFacts, b: ClusterFacts) -> Iterator[Check]:
    common = len(set(a.roots) & set(b.roots))
    if are_of_one_domain(a, b):
        name = domain_of(a, b)
        told = f"both are of {name}" if name is not None else "neither names its trust domain: taken for the same one"
        yield Check(subject=Subject.DOMAINS, way=Way.BOTH, grade=Grade.GOOD, finding=told)
        if common:
            yield Check(subject=Subject.ROOTS, way=Way.BOTH, grade=Grade.GOOD, finding=str(common))
        else:
            yield Check(
                subject=Subject.ROOTS,
                way=Way.BOTH,
                grade=Grade.BAD,
                finding="none: one trust domain with two roots",
                fix="give both an issuing authority of one root (`citadel-cli root sign`, or a parent server); or "
                + EXCHANGE,
            )
        return
    told = f"{a.trust_domain} and {b.trust_domain}: each must have the bundle of the other"
    yield Check(subject=Subject.DOMAINS, way=Way.BOTH, grade=Grade.GOOD, finding=told)
    told = f"{common}" if common else "none, as it should be with federation"
    yield Check(subject=Subject.ROOTS, way=Way.BOTH, grade=Grade.GOOD, finding=told)


def _ages(a: ClusterFacts, b: ClusterFacts) -> Iterator[Check]:
    for side, facts in ((Side.A, a), (Side.B, b)):
        if facts.age > _OLD:
            yield Check(
                subject=Subject.AGE,
                way=Way.BOTH,
                grade=Grade.WARNING,
                finding=f"those of {side} were exported {counted(facts.age.days, 'day', 'days')} ago",
                fix="export them anew with `citadel-cli trust export`",
                at=side,
            )


def _believing(believer: ClusterFacts, peer: ClusterFacts, way: Way, now: datetime) -> Iterator[Check]:
    yield from path_checks(believer, peer, way, now + (believer.ahead or timedelta()))
    yield from _clocks(believer, peer, way)
    if not are_of_one_domain(believer, peer):
        yield from federation_checks(believer, peer, way)


def _clocks(believer: ClusterFacts, peer: ClusterFacts, way: Way) -> Iterator[Check]:
    if believer.ahead is None or peer.ahead is None:
        told = "it cannot be told from a file or a folder"
        yield Check(subject=Subject.CLOCK, way=way, grade=Grade.UNKNOWN, finding=told)
        return
    ahead = peer.ahead - believer.ahead  # of the one that signs
    seconds = round(ahead.total_seconds())
    fix = "set both clocks right (NTP)"
    if ahead > peer.backdate:
        told = f"that of the signer is {seconds} s ahead: new certificates are not valid yet for so long"
        yield Check(subject=Subject.CLOCK, way=way, grade=Grade.BAD, finding=told, fix=fix)
    elif -ahead > peer.leaf_lifetime / 2:  # what is left of a certificate when it is renewed
        told = f"that of the signer is {-seconds} s behind: certificates end before they are renewed"
        yield Check(subject=Subject.CLOCK, way=way, grade=Grade.BAD, finding=told, fix=fix)
    else:
        told = (
            f"that of the signer is {abs(seconds)} s {'ahead' if seconds > 0 else 'behind'}" if seconds else "the same"
        )
        yield Check(subject=Subject.CLOCK, way=way, grade=Grade.GOOD, finding=told)
