"""By what a server is known: the root where it names its trust domain, else the authorities of the trust domain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import pytest
from cryptography import x509

from citadel.bundle import TrustBundle
from citadel.server_anchors import server_anchors
from tests.certificates import (
    A_TEST,
    NOW,
    Signed,
    bundle,
    excluded,
    intermediate,
    key_usage,
    leaf,
    permitted,
    resigned_with_sha1,
    root,
    rsa_key,
    san,
)

AT = NOW + timedelta(hours=1)
DAY = timedelta(days=1)
OWN = root()
SHARED = root("shared", uri=None)
OF_A = intermediate(SHARED, "of a", extra=(permitted("a.test"),))
OF_B = intermediate(SHARED, "of b", uri="spiffe://b.test", extra=(permitted("b.test"),))


def certificates(*signed: Signed) -> tuple[x509.Certificate, ...]:
    return tuple(each.certificate for each in signed)


def anchors(trusted: TrustBundle, *shown: Signed, own_chain: tuple[Signed, ...] = ()) -> tuple[x509.Certificate, ...]:
    return server_anchors(trusted, certificates(*shown), now=AT, own_chain=certificates(*own_chain))


class TestRootsThatNameTheTrustDomain:
    def test_are_anchors_whatever_is_shown(self) -> None:
        trusted = bundle(OWN, root("second"))
        assert anchors(trusted, intermediate(OWN), OF_B) == trusted.x509_authorities

    def test_are_anchors_beside_the_authorities_under_one_that_does_not(self) -> None:
        assert set(anchors(bundle(OWN, SHARED), OF_A)) == set(certificates(OWN, OF_A))


@dataclass(frozen=True)
class Row:
    name: str
    shown: tuple[Signed, ...]
    known: tuple[Signed, ...] = ()
    root: Signed = SHARED


def rows() -> Iterator[Row]:
    yield Row("nothing", ())
    yield Row("the own authority", (OF_A,), (OF_A,))
    yield Row("that of another trust domain", (OF_B,))
    yield Row("both", (OF_B, OF_A), (OF_A,))
    yield Row("the root itself", (SHARED,))
    yield Row("two of the own, as while one takes the place of the other", *[(OF_A, intermediate(SHARED, "next"))] * 2)
    yield Row("one under a root that is not trusted", (intermediate(root("other", uri=None)),))
    yield Row("one under another trust domain's authority", (OF_B, intermediate(OF_B, "forged")))
    yield Row("one of two trust domains", (intermediate(SHARED, names=san("spiffe://a.test", "spiffe://b.test")),))
    yield Row("one of another trust domain that nothing confines", (intermediate(SHARED, uri="spiffe://b.test"),))
    yield Row(
        "one that says the one and is confined to the other", (intermediate(SHARED, extra=(permitted("b.test"),)),)
    )
    yield Row("one that may not speak for its trust domain", (intermediate(SHARED, extra=(excluded("a.test"),)),))
    yield Row("one that has expired", (intermediate(SHARED, not_after=AT - timedelta(seconds=1)),))
    yield Row(
        "one that is not valid yet", (intermediate(SHARED, not_before=AT + timedelta(seconds=1), not_after=AT + DAY),)
    )
    no_ca = x509.BasicConstraints(ca=False, path_length=None)
    yield Row("one that is no CA", (intermediate(SHARED, constraints=no_ca),))
    yield Row("one that may not sign certificates", (intermediate(SHARED, usage=key_usage("crl_sign")),))
    yield Row("a leaf of the own trust domain", (leaf(SHARED), leaf(OF_A), OF_B))
    weak = root("weak", uri=None, key=rsa_key())
    yield Row("one that is signed with SHA-1", (resigned_with_sha1(intermediate(weak), weak),), root=weak)
    nameless = intermediate(SHARED, "nameless", uri=None)
    yield Row("one that names none, and signs leaves alone", (nameless,), (nameless,))
    yield Row(
        "one that names none, and could be an authority between", (intermediate(SHARED, uri=None, path_length=None),)
    )
    yield Row(
        "one that names none, confined to another", (intermediate(SHARED, uri=None, extra=(permitted("b.test"),)),)
    )
    between = intermediate(SHARED, "between", uri=None, path_length=1)
    below = intermediate(between, "below")
    yield Row("the own below one between", (below, between), (below,))
    yield Row("the own, without what stands between", (below,))
    theirs = intermediate(SHARED, "theirs", uri="spiffe://b.test", path_length=1)
    yield Row("one below an authority of another trust domain", (intermediate(theirs, "borrowed"), theirs))
    named_other = root("named", uri="spiffe://b.test")
    of_that = intermediate(named_other, "there")
    yield Row("the own, where the root names another trust domain", (of_that,), (of_that,), root=named_other)


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: row.name)
def test_under_a_root_over_several_trust_domains(row: Row) -> None:
    assert set(anchors(bundle(row.root), *row.shown)) == set(certificates(*row.known))


class TestWhoSignedTheOwnSvid:
    def test_is_known_whatever_it_says_of_itself(self) -> None:
        between = intermediate(SHARED, "between", uri=None, path_length=2)
        above = intermediate(between, "above", uri=None, path_length=1)
        chain = (leaf(above), above, between)
        assert anchors(bundle(SHARED), own_chain=chain) == certificates(above)

    def test_is_known_also_when_the_svid_has_expired(self) -> None:
        ended = leaf(OF_A, not_after=AT - timedelta(seconds=1))
        assert anchors(bundle(SHARED), own_chain=(ended, OF_A)) == certificates(OF_A)

    @pytest.mark.parametrize(
        "chain",
        [
            (leaf(OF_A),),
            (leaf(OF_A), OF_B),
            (leaf(issuer := intermediate(root("gone", uri=None))), issuer),
            (leaf(ended := intermediate(SHARED, not_after=AT - timedelta(seconds=1))), ended),
        ],
        ids=["not at hand", "another", "under a root that is gone", "it has ended"],
    )
    def test_is_not_known_where_the_root_does_not_say_so(self, chain: tuple[Signed, ...]) -> None:
        assert anchors(bundle(SHARED), own_chain=chain) == ()


def test_the_trust_domain_is_that_of_the_bundle() -> None:
    assert bundle(SHARED).trust_domain == A_TEST
    of_b = TrustBundle(trust_domain=A_TEST.parse("b.test"), x509_authorities=certificates(SHARED))
    assert anchors(of_b, OF_A, OF_B) == certificates(OF_B)
