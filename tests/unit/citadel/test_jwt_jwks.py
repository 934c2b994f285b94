"""Key sets of issuers: what is used of them, what is skipped, and what is refused as a whole."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from jwt.algorithms import RSAAlgorithm

from citadel.errors import InvalidArgument, Reason
from citadel.jwk import jwk_from_key
from citadel.jwt.jwks import MAX_DOCUMENT_BYTES, KeySet
from tests.certificates import rsa_key, with_long_exponent
from tests.end_users import SigningKey, jwks_bytes
from tests.tokens import LEFT_OUT

KEY: Final = SigningKey.p256()
OTHER: Final = SigningKey.p256("k2")
RSA: Final = SigningKey(rsa_key(), "r1")
NAMELESS: Final = SigningKey.p256("")
LONG_EXPONENT: Final = with_long_exponent(rsa_key()).public_key()


def ids(document: bytes) -> list[str]:
    return [each.key_id for each in KeySet.parse(document).keys]


def test_keys_are_read_with_their_ids_and_algorithms() -> None:
    keys = KeySet.parse(
        jwks_bytes(KEY, RSA.jwk(alg="PS256", use=LEFT_OUT, key_ops=["verify"], x5t="ignored"), NAMELESS)
    )
    assert [(each.key_id, each.algorithm) for each in keys.keys] == [("k1", ""), ("r1", "PS256"), ("", "")]
    assert keys.skipped == ()


def test_which_keys_a_token_may_be_signed_with() -> None:
    keys = KeySet.parse(jwks_bytes(KEY, OTHER, NAMELESS))
    assert [each.key_id for each in keys.under("k2")] == ["k2"]
    assert [each.key_id for each in keys.under("")] == ["k1", "k2", ""]
    assert [each.key_id for each in keys.under("k9")] == [""]
    assert KeySet.parse(jwks_bytes(KEY)).under("k9") == ()


@pytest.mark.parametrize(
    ("element", "why"),
    [
        (OTHER.jwk(use="enc"), "use 'enc'"),
        (OTHER.jwk(use="jwt-svid"), "use 'jwt-svid'"),
        (OTHER.jwk(use=["sig"]), "use is not text"),
        (OTHER.jwk(key_ops=["sign"]), "key_ops"),
        (OTHER.jwk(key_ops="verify!"), "key_ops"),
        (OTHER.jwk(kid=7), "kid is not text"),
        (OTHER.jwk(alg="ES256K"), "'ES256K'"),
        (OTHER.jwk(alg="HS256"), "'HS256'"),
        (OTHER.jwk(alg="none"), "'none'"),
        (OTHER.jwk(kty="EC2"), "kty 'EC2'"),
        (OTHER.jwk(kty=LEFT_OUT), "kty None"),
        (OTHER.jwk(d="AA"), "private members"),
        (OTHER.jwk(crv="P-999"), "no public key"),
        (OTHER.jwk(x="AA"), "no public key"),
        ({"kty": "oct", "k": "AAAA"}, "kty 'oct'"),
        (jwk_from_key(ed25519.Ed25519PrivateKey.generate().public_key()), "Ed25519"),
        (RSAAlgorithm.to_jwk(rsa_key(1024).public_key(), as_dict=True), "1024 bits"),
        (RSAAlgorithm.to_jwk(LONG_EXPONENT, as_dict=True), "exponent"),
        ("text", "not a JSON object"),
        (None, "not a JSON object"),
    ],
)
def test_a_key_that_cannot_be_used_takes_nothing_from_the_others(element: Any, why: str) -> None:
    document = json.dumps({"keys": [element, KEY.jwk()]}).encode()
    keys = KeySet.parse(document)
    assert [each.key_id for each in keys.keys] == ["k1"]
    assert len(keys.skipped) == 1
    assert why in keys.skipped[0]
    with pytest.raises(InvalidArgument, match="no key can be used") as refusal:
        KeySet.parse(json.dumps({"keys": [element]}).encode())
    assert refusal.value.reason is Reason.JWKS_MALFORMED


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (b"[]", "not an object"),
        (b"{}", "`keys` is missing"),
        (b'{"keys": {}}', "not an array"),
        (b'{"keys": []}', "no key can be used"),
        (b'{"keys": [], "keys": []}', "stands twice"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b" " * (MAX_DOCUMENT_BYTES + 1), "more than"),
        (json.dumps({"keys": [KEY.jwk()] * 101}).encode(), "more than 100"),
        (jwks_bytes(KEY, SigningKey.p256("k1")), "two different keys have the key id 'k1'"),
    ],
)
def test_what_is_no_key_set_is_refused(document: bytes, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why) as refusal:
        KeySet.parse(document)
    assert refusal.value.reason is Reason.JWKS_MALFORMED


def test_one_id_may_stand_for_keys_that_cannot_be_mistaken() -> None:
    p384 = SigningKey(ec.generate_private_key(ec.SECP384R1()))
    assert ids(jwks_bytes(KEY, KEY, p384, SigningKey(RSA.key, "k1"))) == ["k1"] * 4
    assert ids(jwks_bytes(NAMELESS, SigningKey.p256(""))) == ["", ""]
