"""Trust bundles as values, and what must hold of every bundle and of every document."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import timedelta
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from citadel.bundle import MAX_BUNDLE_BYTES, TrustBundle, bundle_map_from_json, bundle_map_to_json
from citadel.bundle_keys import jwt_entry
from citadel.errors import CitadelError, InvalidArgument, Reason
from citadel.spiffe import TrustDomain
from citadel.wire import sequence_on_wire
from tests.certificates import A_TEST, B_TEST, Signed, bundle, root, rsa_key, with_long_exponent

ONE, TWO, THREE = root("1"), root("2"), root("3", key=rsa_key())
KEYS = (ec.generate_private_key(ec.SECP256R1()).public_key(), rsa_key().public_key())

bundles = st.builds(
    bundle,
    trust_domain=st.sampled_from([A_TEST, B_TEST]),
    jwt_authorities=st.dictionaries(st.text(min_size=1), st.sampled_from(KEYS), max_size=3),
    sequence=st.none() | st.integers(0, 2**70),
    refresh_hint=st.none() | st.integers(0, 10**9).map(lambda seconds: timedelta(seconds=seconds)),
).flatmap(
    lambda made: st.lists(st.sampled_from([ONE, TWO, THREE])).map(
        lambda roots: replace(made, x509_authorities=tuple(signed.certificate for signed in roots))
    )
)


@cache
def good_document() -> str:
    return bundle(ONE, THREE, jwt_authorities={"k": KEYS[0]}, sequence=1).to_json().decode()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=10),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=10), children, max_size=3),
    max_leaves=10,
)
members = st.sampled_from(["use", "kty", "kid", "crv", "x", "y", "n", "e", "x5c", "d"])
# Good elements with some members replaced: what comes closest to being believed.
elements = st.builds(
    lambda position, changes: json.loads(good_document())["keys"][position] | changes,
    st.integers(0, 2),
    st.dictionaries(members, json_values, max_size=2),
)
documents = st.fixed_dictionaries(
    {"keys": st.lists(elements | st.dictionaries(members, json_values), max_size=3)},
    optional={"spiffe_sequence": json_values, "spiffe_refresh_hint": json_values},
)


@given(bundles)
def test_a_bundle_survives_its_json(trust_bundle: TrustBundle) -> None:
    again = TrustBundle.from_json(trust_bundle.trust_domain, trust_bundle.to_json())
    assert again == trust_bundle
    assert hash(again) == hash(trust_bundle)
    assert again.to_json() == trust_bundle.to_json()


@given(st.lists(bundles, unique_by=lambda member: member.trust_domain))
def test_a_bundle_map_survives_its_json(members: list[TrustBundle]) -> None:
    again = bundle_map_from_json(bundle_map_to_json(members))
    assert again == {member.trust_domain: replace(member, refresh_hint=None) for member in members}


@given(
    st.one_of(
        st.binary(),
        json_values.map(lambda value: json.dumps(value).encode()),
        documents.map(lambda d: json.dumps(d).encode()),
    )
)
def test_any_bytes_are_a_bundle_or_refused(data: bytes) -> None:
    for parse in (lambda: [TrustBundle.from_json(A_TEST, data)], lambda: bundle_map_from_json(data).values()):
        try:
            parsed = parse()
        except CitadelError:
            continue
        for member in parsed:
            assert TrustBundle.from_json(member.trust_domain, member.to_json()) == member


@given(documents)
def test_what_is_believed_of_a_changed_document_is_no_more_than_the_good_one_said(document: dict[str, object]) -> None:
    try:
        parsed = TrustBundle.from_json(A_TEST, json.dumps(document).encode())
    except CitadelError:
        return
    assert set(parsed.x509_authorities) <= {ONE.certificate, THREE.certificate}


def test_order_and_repetition_make_no_other_bundle() -> None:
    keys = dict(zip("ab", KEYS, strict=True))
    one = bundle(ONE, TWO, jwt_authorities=keys)
    other = bundle(TWO, ONE, TWO, jwt_authorities=dict(reversed(keys.items())))
    assert one == other
    assert one.to_json() == other.to_json()
    assert one.to_pem() == other.to_pem()
    assert one.x509_digest() == other.x509_digest()
    assert len(other.x509_authorities) == 2


@pytest.mark.parametrize(
    "other",
    [
        bundle(ONE, sequence=1),
        bundle(ONE, TWO, sequence=2),
        bundle(ONE, TWO, sequence=1, refresh_hint=timedelta(seconds=1)),
        bundle(ONE, TWO, sequence=1, jwt_authorities={"k": KEYS[0]}),
        bundle(ONE, TWO, sequence=1, trust_domain=B_TEST),
    ],
)
def test_other_content_is_another_bundle(other: TrustBundle) -> None:
    assert bundle(ONE, TWO, sequence=1) != other


def test_the_digest_is_of_the_x509_authorities_alone() -> None:
    plain = bundle(ONE, TWO)
    assert plain.x509_digest() == hashlib.sha256(b"".join(sorted([ONE.der, TWO.der]))).hexdigest()
    dressed = bundle(
        TWO, ONE, sequence=9, refresh_hint=timedelta(1), jwt_authorities={"k": KEYS[0]}, trust_domain=B_TEST
    )
    assert dressed.x509_digest() == plain.x509_digest()
    assert bundle(ONE).x509_digest() != plain.x509_digest()
    assert bundle().x509_digest() == hashlib.sha256().hexdigest()


def test_the_pem_holds_every_x509_authority() -> None:
    pem = bundle(ONE, TWO, jwt_authorities={"k": KEYS[0]}).to_pem()
    assert set(x509.load_pem_x509_certificates(pem)) == {ONE.certificate, TWO.certificate}
    assert bundle().to_pem() == b""


def test_a_bundle_cannot_be_changed_through_what_it_was_made_of() -> None:
    keys = {"a": KEYS[0]}
    made = bundle(jwt_authorities=keys)
    keys["b"] = KEYS[1]
    assert set(made.jwt_authorities) == {"a"}
    with pytest.raises(TypeError):
        made.jwt_authorities["b"] = KEYS[1]  # type: ignore[index] # that it cannot is the point


@pytest.mark.parametrize("sequence", [-1, True, 1.0, "1"])
def test_a_sequence_is_an_integer_from_0_up(sequence: int) -> None:
    with pytest.raises(InvalidArgument, match="sequence"):
        bundle(sequence=sequence)


@pytest.mark.parametrize(
    ("authority", "why"),
    [
        (root(constraints=None), "no basicConstraints"),
        (root(constraints=x509.BasicConstraints(ca=False, path_length=None)), "cA FALSE"),
        (root(key=ec.generate_private_key(ec.SECP256K1())), "cannot stand in a bundle"),
    ],
)
def test_what_is_no_authority_is_refused(authority: Signed, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why) as refusal:
        bundle(authority)
    assert refusal.value.reason == Reason.BUNDLE_MALFORMED


def test_the_size_of_a_document_is_bounded() -> None:
    full = b'{"keys":[]}'.ljust(MAX_BUNDLE_BYTES)
    assert TrustBundle.from_json(TrustDomain("a.test"), full) == bundle()
    with pytest.raises(InvalidArgument, match="more than"):
        TrustBundle.from_json(TrustDomain("a.test"), full + b" ")


def test_the_number_of_elements_is_bounded_and_those_of_no_use_are_told_in_one_line() -> None:
    junk = [{"use": "x509-svid"}] * 10_000
    with capture_logs() as logs:
        assert TrustBundle.from_json(A_TEST, json.dumps({"keys": junk}).encode()) == bundle()
    assert [(each["event"], each["count"], each["position"]) for each in logs] == [("bundle keys skipped", 10_000, 0)]
    with pytest.raises(InvalidArgument, match="10000 elements"):
        TrustBundle.from_json(A_TEST, json.dumps({"keys": [*junk, {}]}).encode())


@pytest.mark.spec("BUNDLE-06")
@pytest.mark.parametrize(("sequence", "told"), [(None, 0), (7, 7), (2**64 - 1, 2**64 - 1), (2**64, 2**64 - 1)])
def test_a_sequence_that_is_longer_than_the_wire_takes_stops_nobody(sequence: int | None, told: int) -> None:
    assert sequence_on_wire(TrustBundle(trust_domain=A_TEST, sequence=sequence)) == told


@pytest.mark.parametrize(
    "costly",
    [
        with_long_exponent(rsa_key()).public_key(),
        rsa.RSAPublicNumbers(e=65537, n=2**8193 + 1).public_key(),
        rsa.RSAPublicNumbers(e=65537, n=2**1023 + 1).public_key(),
    ],
    ids=["long exponent", "long", "short"],
)
def test_a_jwt_key_that_is_weak_or_costs_its_verifiers_too_much_is_passed_over(costly: rsa.RSAPublicKey) -> None:
    with pytest.raises(InvalidArgument, match="too short or too long"):
        bundle(jwt_authorities={"k": costly})
    document = {"keys": [jwt_entry("costly", costly), jwt_entry("good", KEYS[1])]}
    with capture_logs() as logs:
        taken = TrustBundle.from_json(B_TEST, json.dumps(document).encode())
    assert dict(taken.jwt_authorities) == {"good": KEYS[1]}
    assert "too short or too long" in logs[0]["why"]
