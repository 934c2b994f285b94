"""Tokens in compact form: what is read, what is refused before a key is used, and which key can have signed what."""

from __future__ import annotations

import base64
import json
import socket

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from citadel.errors import CitadelError, Reason, Unauthenticated
from citadel.jws import ALGORITHMS, MAX_TOKEN_BYTES, Jws, algorithm_for, sign
from tests.certificates import rsa_key
from tests.tokens import CLAIMS, LEFT_OUT, PrivateKey, b64, hmac_of_public, raw_token, signer, token

P256, P384, P521 = (ec.generate_private_key(curve) for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()))
RSA = rsa_key()
GOOD = token(P256)
HEADER, PAYLOAD, SIGNATURE = GOOD.split(".")
KEYS: dict[str, PrivateKey] = {
    **{f"{kind}{bits}": RSA for kind in ("RS", "PS") for bits in (256, 384, 512)},
    "ES256": P256,
    "ES384": P384,
    "ES512": P521,
}


def refused(text: str) -> CitadelError:
    with pytest.raises(Unauthenticated) as refusal:
        Jws.read(text)
    return refusal.value


def test_a_token_is_read() -> None:
    jws = Jws.read(GOOD)
    assert (jws.algorithm, jws.key_id, jws.token_type) == ("ES256", "k1", "JWT")
    assert jws.claims == CLAIMS


def test_no_part_of_a_token_is_shown() -> None:
    assert SIGNATURE not in repr(Jws.read(GOOD))
    assert "_signed" not in repr(Jws.read(GOOD))


def test_a_token_may_name_neither_key_nor_type() -> None:
    jws = Jws.read(token(P256, kid=LEFT_OUT, header={"typ": LEFT_OUT}))
    assert (jws.key_id, jws.token_type) == ("", None)


NOT_COMPACT = [
    ("nothing", ""),
    ("one part", HEADER),
    ("two parts", f"{HEADER}.{PAYLOAD}"),
    ("four parts", f"{GOOD}."),
    ("a JWE, with five parts", b64(b'{"alg":"dir","enc":"A128GCM"}') + "..AAAA.AAAA.AAAA"),
    ("the flattened JSON form", json.dumps({"protected": HEADER, "payload": PAYLOAD, "signature": SIGNATURE})),
    (
        "the general JSON form",
        json.dumps({"payload": PAYLOAD, "signatures": [{"protected": HEADER, "signature": SIGNATURE}]}),
    ),
    ("a word before it", f"Bearer {GOOD}"),
    ("a space after it", f"{GOOD} "),
    ("a newline after it", f"{GOOD}\n"),
    ("a newline within", f"{HEADER}.{PAYLOAD[:9]}\n{PAYLOAD[9:]}.{SIGNATURE}"),
    ("padding in the header", f"{HEADER}=.{PAYLOAD}.{SIGNATURE}"),
    ("padding in the payload", f"{HEADER}.{PAYLOAD}=.{SIGNATURE}"),
    ("padding of the signature", f"{GOOD}=="),
    ("standard base64", token(P256, sign=lambda _: b"\xfb\xff").replace("-_8", "+/8")),
    ("a second way to write the same", f"{HEADER}.{PAYLOAD}.{SIGNATURE[:-1]}{chr(ord(SIGNATURE[-1]) + 1)}"),
    ("a length that base64url never has", f"{GOOD}AAA"),
    ("letters that are not ASCII", f"{HEADER}.{PAYLOAD}é.{SIGNATURE}"),
    ("digits that are not ASCII", f"{HEADER}.{PAYLOAD}.{SIGNATURE}٣"),
    ("half of a pair of surrogates", f"{HEADER}.\ud800{PAYLOAD}.{SIGNATURE}"),
    ("a megabyte", f"{HEADER}.{'A' * 1024 * 1024}.{SIGNATURE}"),
    ("one more character than are read", "A" * (MAX_TOKEN_BYTES + 1)),
]


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in NOT_COMPACT])
def test_what_is_not_one_compact_token_is_refused(text: str) -> None:
    error = refused(text)
    assert error.reason == Reason.JWT_MALFORMED
    assert len(str(error)) < 200
    assert SIGNATURE[:20] not in str(error)


def test_the_longest_token_is_read() -> None:
    def of_length(filler: int) -> str:
        return token(P256, filler="x" * filler)

    longest = of_length((MAX_TOKEN_BYTES - len(of_length(0))) * 3 // 4)
    assert MAX_TOKEN_BYTES - 4 < len(longest) <= MAX_TOKEN_BYTES
    assert Jws.read(longest).algorithm == "ES256"


NO_OBJECT = [
    ("not JSON", b"{"),
    ("nothing", b""),
    ("a list", b"[]"),
    ("a text", b'"sub"'),
    ("null", b"null"),
    ("not UTF-8", b'{"sub":"\xff"}'),
    ("UTF-16", '{"sub":"x"}'.encode("utf-16")),
    ("a byte order mark", b"\xef\xbb\xbf{}"),
    ("a member twice", b'{"sub":"a","sub":"b"}'),
    ("a member twice, once escaped", b'{"sub":"a","\\u0073ub":"b"}'),
    ("a member twice within another", b'{"a":{"b":1,"b":1}}'),
    ("NaN", b'{"exp":NaN}'),
    ("Infinity", b'{"exp":-Infinity}'),
    ("half of a pair of surrogates", b'{"sub":"\\ud800"}'),
    ("nested without end", b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}"),
    ("a number of 5000 digits", b'{"exp":' + b"9" * 5000 + b"}"),
    ("something after it", b"{}{}"),
]


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in NO_OBJECT])
def test_header_and_payload_are_objects_of_one_meaning(data: bytes) -> None:
    for text in (raw_token(data, b"{}", signer(P256)), token(P256, payload=data)):
        assert refused(text).reason == Reason.JWT_MALFORMED


@pytest.mark.parametrize(
    "algorithm",
    [
        *("none", "None", "NONE", "nOnE", "", "HS256", "HS384", "HS512", "EdDSA", "ES256K", "RS1", "dir", "RSA-OAEP"),
        *("es256", "ES256 ", "RS256 RS384", "ES256\0", "x" * 5000),
        *(["ES256"], {"ES256": 1}, 256, True, None, LEFT_OUT),
    ],
)
@pytest.mark.parametrize("payload", [b"{}", b"not even JSON"])
def test_every_other_algorithm_is_refused_before_anything_else_is_read(algorithm: object, payload: bytes) -> None:
    for make in (signer(P256), lambda _: b"", hmac_of_public(P256.public_key())):
        error = refused(token(P256, header={"alg": algorithm, "kid": 7, "crit": []}, payload=payload, sign=make))
        assert error.reason == Reason.JWT_ALGORITHM_REFUSED
        assert len(str(error)) < 100


@pytest.mark.parametrize("value", [["exp"], [], ["b64"], "exp", None, {}])
def test_what_must_be_understood_is_refused(value: object) -> None:
    assert refused(token(P256, header={"crit": value})).reason == Reason.JWT_HEADER_REFUSED


@pytest.mark.parametrize("value", [True, False, None])
def test_an_unencoded_payload_is_refused(value: object) -> None:
    assert refused(token(P256, header={"b64": value})).reason == Reason.JWT_HEADER_REFUSED


@pytest.mark.parametrize("value", [1, ["k1"], {}, True, None])
@pytest.mark.parametrize("name", ["kid", "typ"])
def test_key_id_and_type_are_text(name: str, value: object) -> None:
    assert refused(token(P256, header={name: value})).reason == Reason.JWT_MALFORMED


async def test_what_a_token_says_of_its_own_key_is_not_looked_at() -> None:
    """An address that listens: whoever fetched from it would be seen."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/keys"
        other = ec.generate_private_key(ec.SECP256R1())
        own = {"jku": url, "x5u": url, "jwk": {"kty": "EC"}, "x5c": ["AAAA"], "x5t": "AAAA", "cty": "JWT"}
        jws = Jws.read(token(other, header=own))
        with pytest.raises(Unauthenticated) as refusal:
            jws.check_signature(P256.public_key())
        assert refusal.value.reason == Reason.JWT_BAD_SIGNATURE
        jws.check_signature(other.public_key())
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_each_algorithm_is_checked_by_a_key_for_it_and_no_other(algorithm: str) -> None:
    jws = Jws.read(token(KEYS[algorithm], header={"alg": algorithm}, sign=signer(KEYS[algorithm], algorithm)))
    for key in (P256, P384, P521, RSA, rsa_key(1024)):
        if key is KEYS[algorithm]:
            jws.check_signature(key.public_key())
            assert jws.is_signed_by(key.public_key())
            continue
        assert not jws.is_signed_by(key.public_key())
        with pytest.raises(Unauthenticated) as refusal:
            jws.check_signature(key.public_key())
        assert refusal.value.reason == Reason.JWT_ALGORITHM_REFUSED


def test_algorithms_are_those_of_the_standard() -> None:
    assert KEYS.keys() == ALGORITHMS


@pytest.mark.parametrize(("key", "by"), [(P384, "ES256"), (P256, "ES384"), (P521, "ES384"), (rsa_key(1024), "RS256")])
def test_a_good_signature_of_a_key_that_is_not_for_the_algorithm_is_refused(key: PrivateKey, by: str) -> None:
    """RFC 7518 binds the curve to the algorithm, and a short RSA key can be broken; the signature itself is right."""
    jws = Jws.read(token(key, header={"alg": by}, sign=signer(key, by)))
    with pytest.raises(Unauthenticated) as refusal:
        jws.check_signature(key.public_key())
    assert refusal.value.reason == Reason.JWT_ALGORITHM_REFUSED


@pytest.mark.parametrize(
    "signature",
    [b"", b"\0" * 64, b"\xff" * 64, b"\0", signer(P256)(b"other"), signer(P256)(b"other")[:63]],
    ids=["none", "zeros", "ones", "a byte", "of something else", "of something else, cut off"],
)
def test_a_wrong_signature_is_refused(signature: bytes) -> None:
    with pytest.raises(Unauthenticated) as refusal:
        Jws.read(token(P256, sign=lambda _: signature)).check_signature(P256.public_key())
    assert refusal.value.reason == Reason.JWT_BAD_SIGNATURE


def test_a_signature_in_der_is_refused() -> None:
    jws = Jws.read(token(P256, sign=lambda data: P256.sign(data, ec.ECDSA(hashes.SHA256()))))
    assert not jws.is_signed_by(P256.public_key())


@given(st.integers(0, len(GOOD) * 8 - 1))
def test_a_token_with_one_bit_changed_is_refused(bit: int) -> None:
    changed = bytearray(GOOD, "ascii")
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Unauthenticated):
        Jws.read(changed.decode("latin-1")).check_signature(P256.public_key())


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: base64.b64encode(data).decode()))
def test_any_text_is_refused_in_order(text: str) -> None:
    refused(text)


@given(header=st.binary(max_size=60), payload=st.binary(max_size=60))
def test_any_bytes_in_three_parts_are_refused_in_order(header: bytes, payload: bytes) -> None:
    refused(raw_token(header, payload, lambda _: b""))


@pytest.mark.spec("JWT-02", "JWT-06", "JWT-08")
@pytest.mark.parametrize(("key", "algorithm"), [(P256, "ES256"), (P384, "ES384"), (P521, "ES512"), (RSA, "RS256")])
def test_what_is_signed_names_its_algorithm_its_key_and_its_type_alone(key: PrivateKey, algorithm: str) -> None:
    made = sign(CLAIMS, key=key, key_id="k9")
    header, _, _ = made.split(".")
    assert json.loads(base64.urlsafe_b64decode(header + "==")) == {"alg": algorithm, "kid": "k9", "typ": "JWT"}
    jws = Jws.read(made)
    jws.check_signature(key.public_key())
    assert jws.claims == CLAIMS
    assert algorithm_for(key.public_key()) == algorithm
