"""An authority that some program of a mesh cannot read is none, wherever it comes in."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from citadel.authority_form import unreadable
from citadel.bundle import TrustBundle
from citadel.bundle_keys import x509_entry
from citadel.errors import InvalidArgument, Reason
from tests.certificates import B_TEST, UNNAMED_FEATURE, Signed, bundle, excluded, intermediate, permitted, root, rsa_key
from tests.odd_authorities import edited, odd_authorities, rich_authority

pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")  # later versions refuse the negative ones

GOOD = root("good", "spiffe://b.test")


@pytest.mark.invariant(7)
@pytest.mark.parametrize(("problem", "odd"), list(odd_authorities()))
def test_an_authority_that_not_all_can_read_is_passed_over(problem: str, odd: Signed) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        bundle(odd, trust_domain=B_TEST)
    assert refusal.value.reason == Reason.BUNDLE_MALFORMED, problem
    document = {"keys": [x509_entry(each.certificate) for each in (odd, GOOD)]}
    assert TrustBundle.from_json(B_TEST, json.dumps(document).encode()) == bundle(GOOD, trust_domain=B_TEST)


@pytest.mark.invariant(8)
def test_an_authority_that_cryptography_alone_cannot_read_is_passed_over_too() -> None:
    odd = root("odd", "spiffe://b.test", extra=[(UNNAMED_FEATURE, False)])
    document = {"keys": [x509_entry(each.certificate) for each in (odd, GOOD)]}
    assert TrustBundle.from_json(B_TEST, json.dumps(document).encode()) == bundle(GOOD, trust_domain=B_TEST)


@pytest.mark.parametrize(
    "authority",
    [
        GOOD,
        root(key=rsa_key()),
        root(key=ec.generate_private_key(ec.SECP384R1())),
        root("Müller & Söhne *", None),
        root(uri="https://ca.example:8443/roots?of=a%20test"),
        root(uri="urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66"),
        intermediate(root("above", key=rsa_key())),
        intermediate(root("above"), extra=[permitted("a.test", ".a.test")]),
        intermediate(root("above"), extra=[excluded("b_c.test", "")]),
        rich_authority(),
    ],
)
def test_authorities_as_they_are_made_everywhere_are_read(authority: Signed) -> None:
    assert unreadable(authority.certificate) == ""
    assert bundle(authority).x509_authorities == (authority.certificate,)


def test_a_serial_number_of_zero_is_read() -> None:
    """It is wrong (RFC 5280 section 4.1.2.2), all take it, and old roots have it."""
    assert unreadable(edited(root(serial=0x41), b"\x02\x01\x41", b"\x02\x01\x00", 1).certificate) == ""
