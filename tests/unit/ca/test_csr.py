"""Certificate requests: whose key is taken, and what never gets past the check."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from ca.issuance.csr import MAX_CSR_BYTES, public_key_of
from citadel.errors import InvalidArgument, Reason
from tests.certificates import rsa_key, with_long_exponent
from tests.csrs import PrivateKey, csr, new_key, signed_by_another_key, with_wrong_signature

BIG = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "x" * 64)] * 900)
GOOD_KEY = new_key()
GOOD = csr(GOOD_KEY, names=("spiffe://a.test/citadel/server",))

REFUSED = [
    ("nothing", b"", Reason.CSR_MALFORMED),
    ("garbage", b"garbage", Reason.CSR_MALFORMED),
    ("PEM", b"-----BEGIN CERTIFICATE REQUEST-----\n", Reason.CSR_MALFORMED),
    ("a request cut short", GOOD[:-1], Reason.CSR_MALFORMED),
    ("trailing bytes", GOOD + b"\0", Reason.CSR_MALFORMED),
    ("two requests", GOOD + GOOD, Reason.CSR_MALFORMED),
    # RFC 2986 section 4.1: version 0 is the only one.
    ("a version that does not exist", GOOD.replace(b"\x02\x01\x00", b"\x02\x01\x01", 1), Reason.CSR_MALFORMED),
    ("a wrong signature", with_wrong_signature(GOOD), Reason.CSR_BAD_SIGNATURE),
    ("a signature by another key", signed_by_another_key(), Reason.CSR_BAD_SIGNATURE),
    ("RSA-1024", csr(rsa_key(1024)), Reason.CSR_KEY_REFUSED),
    ("RSA with an exponent as long as its modulus", csr(with_long_exponent(rsa_key(2048))), Reason.CSR_KEY_REFUSED),
    ("P-224", csr(new_key(ec.SECP224R1())), Reason.CSR_KEY_REFUSED),
    ("P-521", csr(new_key(ec.SECP521R1())), Reason.CSR_KEY_REFUSED),
    ("secp256k1", csr(new_key(ec.SECP256K1())), Reason.CSR_KEY_REFUSED),
    ("Ed25519", csr(ed25519.Ed25519PrivateKey.generate()), Reason.CSR_KEY_REFUSED),
    ("over 64 KiB, otherwise good", csr(subject=BIG), Reason.CSR_TOO_LARGE),
    ("over 64 KiB of nothing", bytes(MAX_CSR_BYTES + 1), Reason.CSR_TOO_LARGE),
    ("64 KiB of nothing", bytes(MAX_CSR_BYTES), Reason.CSR_MALFORMED),
]


@pytest.mark.parametrize(("der", "reason"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_a_bad_request_is_refused_with_its_reason(der: bytes, reason: Reason) -> None:
    with pytest.raises(InvalidArgument) as refused:
        public_key_of(der)
    assert refused.value.reason is reason


ACCEPTED = [
    ("P-256", GOOD_KEY),
    ("P-384", new_key(ec.SECP384R1())),
    ("RSA-2048", rsa_key()),
]


@pytest.mark.parametrize("key", [pytest.param(key, id=name) for name, key in ACCEPTED])
def test_the_key_of_a_good_request_is_taken(key: PrivateKey) -> None:
    assert public_key_of(csr(key)) == key.public_key()


@pytest.mark.parametrize("size", [3072, 4096])
def test_longer_rsa_keys_are_taken(size: int) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=size)
    assert public_key_of(csr(key)) == key.public_key()


@given(st.binary(max_size=2048))
def test_arbitrary_bytes_give_nothing_but_a_refusal(der: bytes) -> None:
    with pytest.raises(InvalidArgument):
        public_key_of(der)


@given(st.data())
def test_a_changed_request_never_proves_another_key(data: st.DataObject) -> None:
    changed = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        match data.draw(st.sampled_from(("change", "drop", "insert"))):
            case "change":
                changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
            case "drop":
                del changed[data.draw(st.integers(0, len(changed) - 1))]
            case "insert":
                changed.insert(data.draw(st.integers(0, len(changed))), data.draw(st.integers(0, 255)))
    try:
        key = public_key_of(bytes(changed))
    except InvalidArgument:
        return
    # The count of unused bits in the outer BIT STRING is the one thing that no signature covers.
    assert key == GOOD_KEY.public_key()


def test_no_single_changed_byte_proves_another_key_or_escapes_the_refusals() -> None:
    for position in range(len(GOOD)):
        changed = bytearray(GOOD)
        changed[position] ^= 1
        try:
            key = public_key_of(bytes(changed))
        except InvalidArgument:
            continue
        assert key == GOOD_KEY.public_key(), f"byte {position}"
