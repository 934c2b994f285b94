"""What a set of revocation lists must be before anything relies on it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from hypothesis import assume, given
from hypothesis import strategies as st

from citadel._wire import types_pb2
from citadel.errors import InvalidArgument, Reason
from citadel.revocation import NO_REVOCATIONS
from citadel.revocation_reading import read_revocations
from tests import certificates
from tests.certificates import NOW, UNKNOWN_CRITICAL, Signed, key_usage
from tests.revocations import list_message, revocation_set, set_message, signed_list

SECOND = timedelta(seconds=1)
ROOT = certificates.root()
ISSUER = certificates.intermediate(ROOT, "issuer")
BUNDLE = certificates.bundle(certificates.root("another"), ROOT)
GOOD = set_message(revocation_set(ROOT, ISSUER, revoked=(7,)))


def with_list_of(authority: Signed, **changes: object) -> types_pb2.RevocationSet:
    """A good set, and in it a list of this authority."""
    message = types_pb2.RevocationSet()
    message.CopyFrom(set_message(revocation_set(ROOT, certificates.intermediate(ROOT, "good"))))
    message.lists.append(list_message(authority.certificate, signed_list(authority, 7, **changes)))  # type: ignore[arg-type] # a table of changes
    return message


def with_bytes(issuer: bytes, crl: bytes) -> types_pb2.RevocationSet:
    return types_pb2.RevocationSet(lists=[*GOOD.lists, types_pb2.RevocationList(issuer=issuer, crl=crl)])


def test_lists_of_the_roots_and_of_those_that_they_signed_are_good() -> None:
    read = read_revocations(GOOD, bundle=BUNDLE, now=NOW)
    assert all("pem" in vars(each) for each in read.lists), "encoded where that may take a while"
    assert set_message(read) == GOOD
    assert {each.issuer for each in read.lists} == {ROOT.certificate, ISSUER.certificate}
    assert read_revocations(types_pb2.RevocationSet(), bundle=None, now=NOW) == NO_REVOCATIONS


def foreign() -> Signed:
    return certificates.intermediate(certificates.root("stranger"), "foreign")


def impostor() -> Signed:
    """Says that the root signed it."""
    return certificates.intermediate(Signed(ROOT.certificate, certificates.root().key), "impostor")


@pytest.mark.invariant(9)
@pytest.mark.parametrize(
    ("message", "why"),
    [
        (with_bytes(b"garbage", GOOD.lists[0].crl), "cannot be read"),
        (with_bytes(GOOD.lists[0].issuer, b"garbage"), "cannot be read"),
        (with_bytes(b"", b""), "cannot be read"),
        (with_list_of(certificates.intermediate(ROOT), key=ROOT.key), "not signed by"),
        (with_list_of(foreign()), "does not vouch for"),
        (with_list_of(certificates.root("stranger")), "does not vouch for"),
        (with_list_of(impostor()), "does not vouch for"),
        (with_list_of(certificates.intermediate(ISSUER, "below")), "does not vouch for"),
        (with_list_of(certificates.leaf(ROOT, subject=ISSUER.certificate.subject)), "may not sign one"),
        (with_list_of(certificates.intermediate(ROOT, usage=key_usage("key_cert_sign"))), "may not sign one"),
        (with_list_of(certificates.intermediate(ROOT), begins=NOW + SECOND), "in the future"),
        (with_list_of(certificates.intermediate(ROOT), lapses=NOW), "has lapsed"),
        (with_list_of(certificates.intermediate(ROOT), extra=[UNKNOWN_CRITICAL]), "critical extension"),
        (
            with_list_of(
                certificates.intermediate(ROOT),
                extra=[(x509.AuthorityKeyIdentifier.from_issuer_public_key(ROOT.key.public_key()), False)],
            ),
            "another key",
        ),
        (types_pb2.RevocationSet(lists=[*GOOD.lists, GOOD.lists[1]]), "of one authority"),
    ],
)
def test_one_list_that_cannot_be_relied_on_spoils_the_set(message: types_pb2.RevocationSet, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why) as refused:
        read_revocations(message, bundle=BUNDLE, now=NOW)
    assert refused.value.reason is Reason.REVOCATIONS_MALFORMED


def test_without_a_bundle_or_with_one_that_trusts_nobody_no_list_is_good() -> None:
    for bundle in (None, certificates.bundle()):
        with pytest.raises(InvalidArgument, match="does not vouch for"):
            read_revocations(GOOD, bundle=bundle, now=NOW)


def test_a_list_that_lapses_with_its_issuer_is_good_until_then_and_spoils_nothing_afterwards() -> None:
    """With a clock that goes before the server's, an issuer has ended here first."""
    brief = certificates.intermediate(ROOT, "brief", not_after=NOW + 10 * SECOND)
    message = with_list_of(brief)
    for moment in (NOW + 9 * SECOND, NOW + 10 * SECOND, NOW + 11 * SECOND):
        assert len(read_revocations(message, bundle=BUNDLE, now=moment).lists) == 3


@given(place=st.integers(0, 10_000), value=st.integers(0, 255), in_issuer=st.booleans())
def test_bytes_that_were_changed_on_the_way_are_refused_as_malformed_and_never_crash(
    place: int, value: int, in_issuer: bool
) -> None:
    message = types_pb2.RevocationSet()
    message.CopyFrom(GOOD)
    field = "issuer" if in_issuer else "crl"
    data = bytearray(getattr(message.lists[1], field))
    place %= len(data)
    signed = x509.load_der_x509_certificate(bytes(data)) if in_issuer else x509.load_der_x509_crl(bytes(data))
    assume(place != len(data) - len(signed.signature) - 1)  # the count of unused bits, which no signature covers
    changed = data[place] != value
    data[place] = value
    setattr(message.lists[1], field, bytes(data))
    if not changed:
        read_revocations(message, bundle=BUNDLE, now=NOW)
        return
    with pytest.raises(InvalidArgument):
        read_revocations(message, bundle=BUNDLE, now=NOW)
