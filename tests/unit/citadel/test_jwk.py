"""Public keys as JSON Web Keys."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, x25519
from jwt.algorithms import ECAlgorithm, OKPAlgorithm

from citadel.errors import InvalidArgument, Reason
from citadel.jwk import jwk_from_key, key_from_jwk
from tests.certificates import rsa_key

P256 = ec.generate_private_key(ec.SECP256R1())
K256 = ec.generate_private_key(ec.SECP256K1()).public_key()
ED448 = ed448.Ed448PrivateKey.generate().public_key()
GOOD = jwk_from_key(P256.public_key())


@pytest.mark.parametrize(
    "key",
    [
        rsa_key().public_key(),
        *(ec.generate_private_key(curve).public_key() for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())),
        ed25519.Ed25519PrivateKey.generate().public_key(),
    ],
)
def test_a_public_key_survives_its_jwk(key: Any) -> None:
    assert key_from_jwk(jwk_from_key(key)) == key


@pytest.mark.spec("JWT-29")
@pytest.mark.parametrize("key", [P256, rsa_key(), K256, ED448, x25519.X25519PrivateKey.generate().public_key(), None])
def test_only_public_keys_of_known_kinds_are_written(key: object) -> None:
    with pytest.raises(InvalidArgument, match="cannot stand in a bundle") as refusal:
        jwk_from_key(key)
    assert refusal.value.reason == Reason.BUNDLE_MALFORMED


@pytest.mark.parametrize(
    ("jwk", "why"),
    [
        ({}, "kty None"),
        (GOOD | {"kty": "ec"}, "kty 'ec'"),
        (GOOD | {"kty": ["EC"]}, "kty"),
        (GOOD | {"kty": "oct", "k": "AA"}, "kty 'oct'"),
        (GOOD | {"d": ""}, "private members"),
        (GOOD | {"k": None}, "private members"),
        (GOOD | {"y": 1}, "member 'y'"),
        ({"kty": "RSA", "n": "AQAB"}, "member 'e'"),
        ({"kty": "RSA", "n": "", "e": ""}, "no public key"),
        ({"kty": "RSA", "n": "AQAB", "e": "Ag"}, "no public key"),
        (GOOD | {"x": GOOD["y"], "y": GOOD["x"]}, "no public key"),
        (GOOD | {"x": "A"}, "no public key"),
        (GOOD | {"crv": "P-999"}, "no public key"),
        (ECAlgorithm.to_jwk(K256, as_dict=True), "curve 'secp256k1'"),
        (OKPAlgorithm.to_jwk(ED448, as_dict=True), "curve 'Ed448'"),
    ],
)
def test_what_names_no_known_public_key_is_refused(jwk: dict[str, object], why: str) -> None:
    with pytest.raises(InvalidArgument, match=why) as refusal:
        key_from_jwk(jwk)
    assert refusal.value.reason == Reason.BUNDLE_MALFORMED
