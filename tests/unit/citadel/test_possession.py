"""A proof is good for one key, purpose, claimant, trust domain, request and nonce, and for nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from citadel.errors import InvalidArgument, Reason
from citadel.possession import Challenge, ProvingKey, Purpose, provable
from citadel.spiffe import TrustDomain
from tests.certificates import rsa_key

EC = ec.generate_private_key(ec.SECP256R1())
CHALLENGE = Challenge(
    purpose=Purpose.REJOIN, trust_domain=TrustDomain("a.test"), claimant="who", csr=b"csr", nonce=b"n" * 32
)


@pytest.mark.parametrize(
    "key", [EC, ec.generate_private_key(ec.SECP384R1()), rsa_key(2048), rsa_key(3072)], ids=lambda key: key.key_size
)
def test_the_holder_of_the_key_meets_the_challenge(key: ProvingKey) -> None:
    signature = CHALLENGE.signed_by(key)
    assert CHALLENGE.is_met_by(signature, key.public_key())
    assert not CHALLENGE.is_met_by(signature, ec.generate_private_key(ec.SECP256R1()).public_key())
    assert not CHALLENGE.is_met_by(signature[:-1] + bytes([signature[-1] ^ 1]), key.public_key())
    assert not CHALLENGE.is_met_by(b"", key.public_key())


@pytest.mark.parametrize(
    "changes",
    [
        {"purpose": Purpose.X509POP},
        {"trust_domain": TrustDomain("b.test")},
        {"claimant": "another"},
        {"csr": b"another"},
        {"nonce": b"m" * 32},
        {"nonce": b"n" * 31 + b"c", "csr": b"sr"},
        {"claimant": "wh", "nonce": b"o" + b"n" * 32},
    ],
    ids=str,
)
def test_a_signature_is_good_for_one_challenge_only(changes: dict[str, Any]) -> None:
    assert not replace(CHALLENGE, **changes).is_met_by(CHALLENGE.signed_by(EC), EC.public_key())


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP521R1()),
        ec.generate_private_key(ec.SECP256K1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa_key(1024),
    ],
    ids=["P-521", "secp256k1", "Ed25519", "RSA 1024"],
)
def test_other_keys_prove_nothing(key: Any) -> None:
    with pytest.raises(InvalidArgument) as refused:
        provable(key.public_key())
    assert refused.value.reason is Reason.CSR_KEY_REFUSED
