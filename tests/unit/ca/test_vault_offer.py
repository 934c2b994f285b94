"""What a PKI engine in Vault offers, and what of it is left out or refused: rules over certificates, with no Vault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ca.upstream.lineage import MOST_ROOTS
from ca.upstream.vault.engine import VaultIssuer
from ca.upstream.vault.offer import Found, Offer, offer_of
from citadel.errors import FailedPrecondition, Reason
from citadel.spiffe import TrustDomain
from tests.certificates import A_TEST, NOW, Signed, intermediate, key_usage, permitted, root, rsa_key

_ENDED = {"not_before": NOW - timedelta(days=9), "not_after": NOW - timedelta(days=1)}


def _issuer(signed: Signed | None, name: str, **words: Any) -> VaultIssuer:
    return VaultIssuer(id=f"id-{name}", name=name, certificate=signed.certificate if signed else None, **words)


def _offered(
    *issuers: VaultIssuer,
    leading: str = "id-first",
    retired: Sequence[str] = (),
    known: Sequence[Signed] = (),
    trust_domain: TrustDomain = A_TEST,
) -> Offer:
    certificates = [each.certificate for each in known]
    return offer_of(
        Found(issuers=issuers, leading=leading, retired=frozenset(retired)),
        mount="pki",
        trust_domain=trust_domain,
        now=NOW,
        known=certificates,
        trusted=certificates,
    )


def _refusal(*issuers: VaultIssuer, **words: Any) -> str:
    with pytest.raises(FailedPrecondition) as refused:
        _offered(*issuers, **words)
    assert refused.value.reason is Reason.UPSTREAM_INVALID
    return str(refused.value)


def test_all_self_signed_issuers_are_trusted_and_each_can_sign_by_its_own_id() -> None:
    first, second = root("first"), root("second", key=rsa_key())
    offer = _offered(_issuer(first, "first"), _issuer(second, "second"))
    assert offer.line.issuer_id == "id-first"
    assert (offer.line.root, offer.line.chain) == (first.certificate, ())
    assert offer.roots == (first.certificate, second.certificate)
    assert {each.issuer_id for each in offer.lines.values()} == {"id-first", "id-second"}
    assert offer.notes == ()


def test_one_that_anybody_could_have_imported_is_trusted_and_told() -> None:
    first, above, bare, nameless = root("first"), root("above"), root("bare"), root("nameless", uri=None)
    offer = _offered(
        _issuer(first, "first", has_key=False),
        _issuer(intermediate(first, "one", path_length=None), "one"),
        _issuer(above, "above", has_key=False),
        _issuer(intermediate(above, "two"), "two"),
        _issuer(bare, "bare", has_key=False),
        _issuer(nameless, "nameless"),
        leading="id-one",
    )
    assert len(offer.roots) == 4
    told = {note.partition(":")[0] for note in offer.notes}
    assert told == {
        "the issuer bare in pki is trusted, and has no key there, nor an issuer under it",
        "the issuer nameless in pki is trusted, and names no trust domain",
    }


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (root("other", uri="spiffe://b.test"), "is for spiffe://b.test"),
        (root("other", extra=(permitted("b.test"),)), "may sign only within b.test"),
        (root("first"), "has the name of another root with another key"),
        (root("other", usage=key_usage("crl_sign")), "lacks keyCertSign"),
        (root("other", key=ec.generate_private_key(ec.SECP521R1())), "secp521r1"),
        (root("other", not_before=NOW + timedelta(hours=1)), "is not valid before"),
        (None, "cannot be read"),
    ],
    ids=["foreign", "constrained elsewhere", "twin", "no signer", "odd key", "not begun", "junk"],
)
def test_one_that_is_not_sound_is_left_out_with_a_note_and_takes_no_other_down(
    other: Signed | None, words: str
) -> None:
    first, second = root("first"), root("second")
    offer = _offered(_issuer(other, "other"), _issuer(first, "first"), _issuer(second, "second"))
    assert set(offer.roots) == {first.certificate, second.certificate}
    [note] = offer.notes
    assert note.startswith("the issuer other in pki is not trusted: it ")
    assert words in note


def test_one_that_has_ended_is_left_out_and_not_told_of() -> None:
    first = root("first")
    offer = _offered(_issuer(first, "first"), _issuer(root("other", **_ENDED), "other"))
    assert (offer.roots, offer.notes) == ((first.certificate,), ())


def test_of_two_of_one_name_that_is_left_out_which_nobody_trusts_yet() -> None:
    first, old, twin = root("first"), root("one"), root("one")
    issuers = (_issuer(twin, "twin"), _issuer(old, "old"), _issuer(first, "first"))
    assert set(_offered(*issuers, known=[old]).roots) == {first.certificate, old.certificate}
    assert "make roots with a name of their own" in _refusal(*issuers, leading="id-twin", known=[old])


def test_what_has_retired_is_not_trusted_unless_it_is_above_what_signs() -> None:
    first, second = root("first"), root("second")
    issuers = (_issuer(first, "first"), _issuer(second, "second"))
    assert _offered(*issuers, retired=["id-second"]).roots == (first.certificate,)
    below = (*issuers, _issuer(intermediate(second, path_length=1), "below"))
    assert set(_offered(*below, retired=["id-second"], leading="id-below").roots) == {
        first.certificate,
        second.certificate,
    }


def test_an_intermediate_leads_to_its_root_by_what_is_there() -> None:
    first = root("first")
    high, low = intermediate(first, "high", path_length=2), None
    low = intermediate(high, "low", path_length=1)
    issuers = (_issuer(first, "first", has_key=False), _issuer(high, "high"), _issuer(low, "low"))
    offer = _offered(*issuers, leading="id-low")
    assert offer.line.chain == (low.certificate, high.certificate)
    assert list(offer.lines) == [first.certificate]
    assert offer.lines[first.certificate] == offer.line
    ca_chain = _issuer(low, "low", further=(high.certificate,))
    assert _offered(issuers[0], ca_chain, leading="id-low").line == offer.line
    assert "issuers/import/cert" in _refusal(*issuers[1:], leading="id-low")


def test_where_there_are_too_many_those_stay_that_sign_or_are_trusted() -> None:
    many = [root(f"root {number}") for number in range(MOST_ROOTS + 2)]
    issuers = [_issuer(each, f"{number}") for number, each in enumerate(many)]
    leading = replace(issuers[-1], id="id-first")
    offer = _offered(*issuers[:-1], leading, known=[many[-2]])
    assert len(offer.roots) == MOST_ROOTS
    assert {many[-1].certificate, many[-2].certificate} <= set(offer.roots)
    assert offer.notes == (f"pki has {MOST_ROOTS + 2} roots, and {MOST_ROOTS} are trusted",)


_TOP = root("first")


@pytest.mark.parametrize(
    ("leading", "words"),
    [
        (_issuer(None, "first"), "cannot be read"),
        (_issuer(root("first", **_ENDED), "first"), "has expired"),
        (_issuer(root("first", not_before=NOW + timedelta(minutes=2)), "first"), "or wait until it has begun"),
        (_issuer(root("first", uri="spiffe://b.test"), "first"), "is for spiffe://b.test"),
        (_issuer(root("first", constraints=x509.BasicConstraints(ca=True, path_length=0)), "first"), "path length 0"),
        (_issuer(_TOP, "first", has_key=False), "whose key is not there"),
        (_issuer(intermediate(_TOP, path_length=0), "first", further=(_TOP.certificate,)), "leads to none"),
    ],
    ids=["junk", "ended", "not begun", "foreign", "path length", "no key", "its root is no issuer"],
)
def test_nothing_is_offered_where_what_signs_is_not_sound(leading: VaultIssuer, words: str) -> None:
    assert words in _refusal(leading)


def test_a_path_length_counts_from_below() -> None:
    first = root("first")
    issuers = (_issuer(first, "first"), _issuer(intermediate(first, "low", path_length=0), "low"))
    assert "path length 0: no authority may stand below it" in _refusal(*issuers, leading="id-low")


def test_a_constrained_root_is_refused_for_a_name_that_envoy_takes_for_none() -> None:
    odd = TrustDomain("a_b.test")
    first = root("first", uri="spiffe://a_b.test", extra=(permitted("a_b.test"),))
    assert "Envoy then refuses" in _refusal(_issuer(first, "first"), trust_domain=odd)


def test_an_issuer_that_is_not_there_is_no_offer() -> None:
    assert "id-gone" in _refusal(_issuer(root("first"), "first"), leading="id-gone")
