"""The lines BUNDLE-*, X509-37 to 44 and JWT-25 to 29 of the checklist: bundle documents, written and read."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from citadel.bundle import (
    DEFAULT_REFRESH_INTERVAL,
    TrustBundle,
    bundle_map_from_json,
    bundle_map_to_json,
)
from citadel.errors import InvalidArgument, Reason, Unauthenticated
from citadel.spiffe import TrustDomain
from citadel.svid import verify_x509_svid
from tests.certificates import A_TEST, B_TEST, NOW, bundle, leaf, root, rsa_key

TOP, OTHER = root(), root("other a.test")
JWT_KEY = ec.generate_private_key(ec.SECP256R1())
Json = dict[str, Any]


def read(document: object, trust_domain: TrustDomain = A_TEST) -> TrustBundle:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return TrustBundle.from_json(trust_domain, data)


def written(trust_bundle: TrustBundle) -> Json:
    document: Json = json.loads(trust_bundle.to_json())
    return document


def x509_entry(**changes: object) -> Json:
    """The element of `TOP`, made without the code under test; a change to None removes the member."""
    entry: Json = {
        "use": "x509-svid",
        **ECAlgorithm.to_jwk(TOP.key.public_key(), as_dict=True),
        "x5c": [base64.b64encode(TOP.der).decode()],
    }
    return {name: value for name, value in (entry | changes).items() if value is not None}


def jwt_entry(**changes: object) -> Json:
    """The element of `JWT_KEY`, as `x509_entry`."""
    entry = {"use": "jwt-svid", "kid": "k1", **ECAlgorithm.to_jwk(JWT_KEY.public_key(), as_dict=True)}
    return {name: value for name, value in (entry | changes).items() if value is not None}


# --- the document


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(data, id=f"{line} {data[:40]!r}", marks=pytest.mark.spec(line))
        for line, documents in (
            (
                "BUNDLE-01",
                (b"", b"{", b"[]", b'"keys"', b"null", b'{"keys":[]}x', b'\xef\xbb\xbf{"keys":[]}', b'{"keys":[]}\xff'),
            ),
            ("BUNDLE-01", ('{"keys":[]}'.encode("utf-16"), b'{"keys":["x"]}', b'{"keys":[[]]}', b'{"keys":[null]}')),
            ("BUNDLE-01", (b'{"keys":[],"x":NaN}', b'{"keys":[],"x":-Infinity}', b'{"keys":' + b"[" * 100_000)),
            # One document, two meanings: which member counts depends on who reads it.
            (
                "BUNDLE-01",
                (
                    b'{"keys":[],"keys":[]}',
                    b'{"keys":[{"kty":"EC","kty":"RSA"}]}',
                    b'{"keys":[],"x":{"y":{"a":1,"a":1}}}',
                ),
            ),
            ("BUNDLE-02", (b"{}", b'{"keys":null}', b'{"keys":{}}', b'{"keys":"[]"}', b'{"Keys":[]}', b'{"keys":0}')),
            ("BUNDLE-05", (b'{"keys":[],"spiffe_sequence":"1"}', b'{"keys":[],"spiffe_sequence":1.0}')),
            ("BUNDLE-05", (b'{"keys":[],"spiffe_sequence":true}', b'{"keys":[],"spiffe_sequence":-1}')),
            (
                "BUNDLE-05",
                (b'{"keys":[],"spiffe_sequence":null}', b'{"keys":[],"spiffe_sequence":' + b"9" * 5000 + b"}"),
            ),
            ("BUNDLE-08", (b'{"keys":[],"spiffe_refresh_hint":"60"}', b'{"keys":[],"spiffe_refresh_hint":1.5}')),
            ("BUNDLE-08", (b'{"keys":[],"spiffe_refresh_hint":false}', b'{"keys":[],"spiffe_refresh_hint":-60}')),
            ("BUNDLE-08", (b'{"keys":[],"spiffe_refresh_hint":99999999999999999999}',)),
        )
        for data in documents
    ],
)
def test_a_document_without_one_meaning_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        read(data)
    assert refusal.value.reason == Reason.BUNDLE_MALFORMED


@pytest.mark.spec("BUNDLE-01", "BUNDLE-02", "BUNDLE-13")
def test_a_bundle_is_written_as_a_jwk_set() -> None:
    keys = written(bundle(TOP, jwt_authorities={"k1": JWT_KEY.public_key()}))["keys"]
    assert [key["use"] for key in keys] == ["x509-svid", "jwt-svid"]
    assert written(bundle()) == {"keys": []}


@pytest.mark.spec("BUNDLE-03", "X509-44", "JWT-28")
@pytest.mark.parametrize("keys", [[], [{"kty": "XYZ", "use": "x509-svid"}], [jwt_entry()], [x509_entry(x5c=[])]])
def test_without_a_usable_authority_nothing_is_trusted(keys: list[Json]) -> None:
    empty = read({"keys": keys})
    assert empty.x509_authorities == ()
    with pytest.raises(Unauthenticated) as refusal:
        verify_x509_svid([leaf(TOP).der], {A_TEST: empty}, NOW)
    assert refusal.value.reason == Reason.SVID_UNTRUSTED
    assert read({"keys": [x509_entry()]}).jwt_authorities == {}


@pytest.mark.spec("BUNDLE-05", "BUNDLE-06")
@pytest.mark.parametrize("sequence", [0, 1, 2**53 + 1, 2**63 - 1, 2**64 + 1])
def test_a_sequence_keeps_all_its_digits(sequence: int) -> None:
    taken = read(b'{"keys":[],"spiffe_sequence":%d}' % sequence)
    assert taken.sequence == sequence
    assert b'"spiffe_sequence":%d' % sequence in taken.to_json()


@pytest.mark.spec("BUNDLE-08")
def test_a_refresh_hint_is_whole_seconds() -> None:
    assert read({"keys": [], "spiffe_refresh_hint": 60}).refresh_hint == timedelta(minutes=1)
    assert b'"spiffe_refresh_hint":90}' in bundle(refresh_hint=timedelta(minutes=1.5)).to_json()
    for wrong in (timedelta(seconds=1.5), timedelta(seconds=-1)):
        with pytest.raises(InvalidArgument, match="whole number of seconds"):
            bundle(refresh_hint=wrong)


@pytest.mark.spec("BUNDLE-04", "BUNDLE-07")
def test_sequence_and_hint_are_written_where_they_are_set_and_only_there() -> None:
    assert written(bundle(sequence=7, refresh_hint=timedelta(seconds=5))) == {
        "keys": [],
        "spiffe_sequence": 7,
        "spiffe_refresh_hint": 5,
    }


@pytest.mark.spec("BUNDLE-20")
@pytest.mark.parametrize(
    ("hint", "interval"),
    [
        (None, DEFAULT_REFRESH_INTERVAL),
        (timedelta(), DEFAULT_REFRESH_INTERVAL),
        (timedelta(seconds=9), timedelta(seconds=9)),
    ],
)
def test_without_a_hint_five_minutes(hint: timedelta | None, interval: timedelta) -> None:
    assert bundle(refresh_hint=hint).refresh_interval == interval
    assert timedelta(minutes=5) == DEFAULT_REFRESH_INTERVAL


@pytest.mark.spec("BUNDLE-09", "BUNDLE-10")
def test_members_that_the_standard_does_not_define_change_nothing() -> None:
    plain = {"keys": [x509_entry(), jwt_entry()], "spiffe_sequence": 1}
    more = plain | {"refresh_hint": "x", "trust_domain": "b.test", "float": 1.5, "keys2": [{}]}
    more["keys"] = [x509_entry(alg="none", kid=5, other={"d": 1}), jwt_entry(alg="HS256", key_ops=["sign"])]
    assert read(more) == read(plain)


@pytest.mark.spec("BUNDLE-16")
def test_the_trust_domain_is_kept_beside_the_document() -> None:
    data = bundle(TOP).to_json()
    assert b"a.test" not in data.replace(base64.b64encode(TOP.der), b"")
    assert TrustBundle.from_json(B_TEST, data).trust_domain == B_TEST
    assert TrustBundle.from_json(B_TEST, data) != TrustBundle.from_json(A_TEST, data)


@pytest.mark.spec("BUNDLE-18")
def test_rotation_is_both_roots_and_revocation_one_less() -> None:
    old, new = [leaf(TOP).der], [leaf(OTHER).der]
    both = read(written(bundle(TOP, OTHER)))
    for chain in (old, new):
        verify_x509_svid(chain, {A_TEST: both}, NOW)
    after = read(written(bundle(OTHER)))
    verify_x509_svid(new, {A_TEST: after}, NOW)
    with pytest.raises(Unauthenticated):
        verify_x509_svid(old, {A_TEST: after}, NOW)


# --- its elements


SKIPPED = [
    ("BUNDLE-12", x509_entry(kty="XYZ")),
    ("BUNDLE-12", jwt_entry(kty="XYZ")),
    ("BUNDLE-12", jwt_entry(kty="oct", k="c2VjcmV0")),
    ("BUNDLE-11", x509_entry(kty=None)),
    ("BUNDLE-11", jwt_entry(kty=["EC"])),
    *(
        ("BUNDLE-14", x509_entry(use=use))
        for use in (None, "sig", "enc", "X509-SVID", "x509-svid ", "wit-svid", ["x509-svid"], {})
    ),
    *(("BUNDLE-14", jwt_entry(use=use)) for use in (None, "sig", "JWT-SVID", "wit-svid", 1)),
    *(("X509-42", x509_entry(x5c=x5c)) for x5c in (None, [], {}, "", base64.b64encode(TOP.der).decode(), [None], [[]])),
    ("X509-39", x509_entry(x5c=["AAAA"])),
    ("X509-39", x509_entry(x5c=[TOP.pem.decode()])),
    ("X509-39", x509_entry(x5c=["*" + base64.b64encode(TOP.der).decode()])),
    ("X509-39", x509_entry(x5c=[base64.b64encode(TOP.der + b"\0").decode()])),
    ("X509-41", x509_entry(x=None)),
    ("X509-41", x509_entry(crv="P-384")),
    ("X509-41", x509_entry(crv="secp256k1")),
    ("X509-41", x509_entry(y="AAAA")),
    # The certificate's key and the JWK's are both good, and are not the same.
    ("X509-41", x509_entry(**ECAlgorithm.to_jwk(OTHER.key.public_key(), as_dict=True))),
    ("X509-41", x509_entry(**RSAAlgorithm.to_jwk(rsa_key().public_key(), as_dict=True))),
    ("X509-35", x509_entry(x5c=[base64.b64encode(leaf(TOP, key=TOP.key).der).decode()])),
    ("JWT-26", jwt_entry(kid=None)),
    ("JWT-26", jwt_entry(kid="")),
    ("JWT-26", jwt_entry(kid=1)),
    ("JWT-04", jwt_entry(crv="P-999")),
    ("JWT-04", jwt_entry(x="")),
    ("JWT-04", jwt_entry(x=TOP.key.public_key().public_numbers().x)),
    (
        "JWT-03",
        {"use": "jwt-svid", "kid": "e"}
        | OKPAlgorithm.to_jwk(ed25519.Ed25519PrivateKey.generate().public_key(), as_dict=True),
    ),
    # Whoever reads the document can sign with such a key.
    ("JWT-29", jwt_entry(**ECAlgorithm.to_jwk(JWT_KEY, as_dict=True))),
    ("JWT-29", x509_entry(**ECAlgorithm.to_jwk(TOP.key, as_dict=True))),
]


@pytest.mark.parametrize(
    "element",
    [pytest.param(e, id=f"{line}-{n}", marks=pytest.mark.spec(line)) for n, (line, e) in enumerate(SKIPPED)],
)
def test_an_element_that_cannot_be_used_is_skipped_and_the_others_are_kept(element: Json) -> None:
    good = bundle(OTHER, jwt_authorities={"good": JWT_KEY.public_key()})
    first, second = written(good)["keys"]
    assert read({"keys": [element]}) == bundle()
    assert read({"keys": [element, first, element, second, element]}) == good


def test_the_elements_that_the_skipped_ones_are_made_from_are_good() -> None:
    assert read({"keys": [x509_entry(), jwt_entry()]}) == bundle(TOP, jwt_authorities={"k1": JWT_KEY.public_key()})


@pytest.mark.spec("X509-43")
def test_of_several_certificates_in_an_element_the_first_counts() -> None:
    first, second = (base64.b64encode(signed.der).decode() for signed in (TOP, OTHER))
    for others in ([second], ["garbage"], [7], [second, None]):
        assert read({"keys": [x509_entry(x5c=[first, *others])]}) == bundle(TOP)
    assert read({"keys": [x509_entry(x5c=[second, first])]}) == bundle()  # the second does not mend the first


@pytest.mark.spec("X509-37", "X509-44")
def test_one_element_for_each_authority_and_the_union_of_all_is_trusted() -> None:
    keys = written(bundle(TOP, OTHER))["keys"]
    assert [key["use"] for key in keys] == ["x509-svid", "x509-svid"]
    assert read({"keys": keys[:1]}) != read({"keys": keys[1:]})
    assert read({"keys": keys + keys}) == bundle(OTHER, TOP)


@pytest.mark.spec("X509-38", "X509-39", "X509-41", "BUNDLE-11", "BUNDLE-15")
@pytest.mark.parametrize(
    ("key", "members"),
    [
        (ec.generate_private_key(ec.SECP256R1()), {"crv", "x", "y"}),
        (ec.generate_private_key(ec.SECP384R1()), {"crv", "x", "y"}),
        (rsa_key(), {"n", "e"}),
        (ed25519.Ed25519PrivateKey.generate(), {"crv", "x"}),
    ],
)
def test_an_authority_is_written_with_its_public_members_and_nothing_else(key: Any, members: set[str]) -> None:
    signed = root(key=key)
    [entry] = written(bundle(signed))["keys"]
    assert set(entry) == {"use", "kty", "x5c"} | members
    [encoded] = entry["x5c"]
    assert base64.b64decode(encoded, validate=True) == signed.der
    algorithm = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}[entry["kty"]]
    public = algorithm.from_jwk(entry).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert public == x509.load_der_x509_certificate(signed.der).public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )


@pytest.mark.spec("JWT-25", "JWT-26", "JWT-29", "BUNDLE-15")
def test_a_jwt_key_is_written_with_its_id_and_public_members_alone() -> None:
    keys = {"b": rsa_key().public_key(), "a": JWT_KEY.public_key()}
    first, second = written(bundle(jwt_authorities=keys))["keys"]
    assert set(first) == {"use", "kty", "kid", "crv", "x", "y"}
    assert set(second) == {"use", "kty", "kid", "n", "e"}
    assert [first["kid"], second["kid"]] == ["a", "b"]


@pytest.mark.spec("JWT-29")
@pytest.mark.parametrize("key", [JWT_KEY, rsa_key(), ed25519.Ed25519PrivateKey.generate().public_key(), b"secret"])
def test_what_is_no_public_jwt_key_never_gets_into_a_bundle(key: Any) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        bundle(jwt_authorities={"k": key})
    assert refusal.value.reason == Reason.BUNDLE_MALFORMED


@pytest.mark.spec("JWT-27")
def test_a_key_serves_only_the_use_that_it_is_published_for() -> None:
    assert read({"keys": [x509_entry(kid="k1")]}).jwt_authorities == {}
    assert read({"keys": [jwt_entry(x5c=x509_entry()["x5c"])]}).x509_authorities == ()


@pytest.mark.spec("JWT-26")
def test_two_jwt_keys_under_one_id_are_refused_unless_they_are_one() -> None:
    assert read({"keys": [jwt_entry(), jwt_entry()]}) == read({"keys": [jwt_entry()]})
    with pytest.raises(InvalidArgument, match="two different JWT keys"):
        read({"keys": [jwt_entry(), jwt_entry(**RSAAlgorithm.to_jwk(rsa_key().public_key(), as_dict=True))]})


# --- bundle maps


@pytest.mark.spec("BUNDLE-21", "BUNDLE-24")
def test_a_map_is_written_by_name_without_hints() -> None:
    members = [bundle(TOP, sequence=3, refresh_hint=timedelta(seconds=9)), bundle(trust_domain=B_TEST)]
    document = json.loads(bundle_map_to_json(members))
    assert set(document) == {"trust_domains"}
    assert document["trust_domains"]["a.test"] == written(bundle(TOP, sequence=3))
    assert document["trust_domains"]["b.test"] == {"keys": []}
    assert json.loads(bundle_map_to_json([])) == {"trust_domains": {}}


@pytest.mark.spec("BUNDLE-22")
def test_a_map_is_not_written_with_a_name_twice() -> None:
    with pytest.raises(InvalidArgument, match=r"two bundles of a\.test"):
        bundle_map_to_json([bundle(TOP), bundle(OTHER)])


@pytest.mark.spec("BUNDLE-21", "BUNDLE-25", "BUNDLE-26")
def test_a_map_is_read_whole_and_its_members_hints_are_dropped() -> None:
    document = {"trust_domains": {"a.test": {"keys": [x509_entry()], "spiffe_refresh_hint": 1}, "b.test": {"keys": []}}}
    bundles = bundle_map_from_json(json.dumps(document).encode())
    assert bundles == {A_TEST: bundle(TOP), B_TEST: bundle(trust_domain=B_TEST)}
    assert bundle_map_from_json(b'{"trust_domains":{},"more":1}') == {}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(data, reason, marks=pytest.mark.spec(line))
        for line, data, reason in (
            ("BUNDLE-21", b"{}", Reason.BUNDLE_MALFORMED),
            ("BUNDLE-21", b'{"trust_domains":[]}', Reason.BUNDLE_MALFORMED),
            ("BUNDLE-21", b'{"trust_domains":null}', Reason.BUNDLE_MALFORMED),
            ("BUNDLE-21", b'{"trust_domains":{"spiffe://a.test":{"keys":[]}}}', Reason.TRUST_DOMAIN_MALFORMED),
            ("BUNDLE-21", b'{"trust_domains":{"A.test":{"keys":[]}}}', Reason.TRUST_DOMAIN_MALFORMED),
            ("BUNDLE-23", b'{"trust_domains":{"a.test":{"keys":[]},"a.test":{"keys":[]}}}', Reason.BUNDLE_MALFORMED),
            (
                "BUNDLE-23",
                b'{"trust_domains":{"a.test":{"keys":[]},"\\u0061.test":{"keys":[]}}}',
                Reason.BUNDLE_MALFORMED,
            ),
            ("BUNDLE-23", b'{"trust_domains":{},"trust_domains":{}}', Reason.BUNDLE_MALFORMED),
            ("BUNDLE-26", b'{"trust_domains":{"a.test":{"keys":[]},"b.test":{}}}', Reason.BUNDLE_MALFORMED),
            ("BUNDLE-26", b'{"trust_domains":{"a.test":{"keys":[]},"b.test":[]}}', Reason.BUNDLE_MALFORMED),
        )
    ],
)
def test_a_map_that_is_not_good_throughout_is_refused(data: bytes, reason: Reason) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        bundle_map_from_json(data)
    assert refusal.value.reason == reason
