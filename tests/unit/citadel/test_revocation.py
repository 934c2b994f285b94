from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from citadel.errors import InvalidArgument, Reason
from citadel.revocation import NO_REVOCATIONS, RevocationList, RevocationSet, to_pem
from citadel.svid import X509Svid
from tests import certificates
from tests.csrs import with_wrong_signature
from tests.revocations import revocation_list, revocation_set, signed_list

ROOT = certificates.root()
ISSUER = certificates.intermediate(ROOT, "issuer one")
OTHER = certificates.intermediate(ROOT, "issuer two")


def svid(issuer: certificates.Signed, serial: int) -> X509Svid:
    return X509Svid.from_der([certificates.leaf(issuer, serial=serial).der, issuer.der])


@pytest.mark.parametrize(
    "authority",
    [
        ROOT,
        ISSUER,
        certificates.root(key=certificates.rsa_key()),
        certificates.root(key=ec.generate_private_key(ec.SECP384R1())),
    ],
)
def test_a_list_is_that_of_the_authority_that_signed_it(authority: certificates.Signed) -> None:
    crl = signed_list(authority, 7)
    read = RevocationList.from_der(authority.der, crl.public_bytes(Encoding.DER))
    assert read == RevocationList.of(authority.certificate, crl)
    assert read.issuer_key_id == x509.SubjectKeyIdentifier.from_public_key(authority.key.public_key()).digest
    assert x509.load_pem_x509_crl(read.pem) == x509.load_der_x509_crl(read.der) == crl


def unnamed_key() -> certificates.Signed:
    """An authority whose certificate does not say the identifier of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder(
        issuer_name=ROOT.certificate.subject,
        subject_name=ROOT.certificate.subject,
        public_key=key.public_key(),
        serial_number=1,
        not_valid_before=certificates.NOW,
        not_valid_after=certificates.NOW + timedelta(days=1),
    )
    return certificates.Signed(builder.sign(key, hashes.SHA256()), key)


@pytest.mark.parametrize(
    ("issuer", "crl", "why"),
    [
        (b"garbage", signed_list(ISSUER).public_bytes(Encoding.DER), "cannot be read"),
        (ISSUER.der, b"garbage", "cannot be read"),
        (ISSUER.der, b"", "cannot be read"),
        (ISSUER.der, signed_list(ISSUER).public_bytes(Encoding.PEM), "cannot be read"),
        (ISSUER.der, signed_list(OTHER).public_bytes(Encoding.DER), "not signed by CN=issuer one"),
        (ISSUER.der, signed_list(ISSUER, key=OTHER.key).public_bytes(Encoding.DER), "not signed by"),
        (ISSUER.der, signed_list(ISSUER, name=OTHER.certificate.subject).public_bytes(Encoding.DER), "not signed by"),
        (ISSUER.der, with_wrong_signature(signed_list(ISSUER, 7).public_bytes(Encoding.DER)), "not signed by"),
        ((nobody := unnamed_key()).der, signed_list(nobody).public_bytes(Encoding.DER), "no key identifier"),
    ],
)
def test_what_cannot_be_read_or_was_signed_by_somebody_else_is_refused(issuer: bytes, crl: bytes, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why) as refused:
        RevocationList.from_der(issuer, crl)
    assert refused.value.reason is Reason.REVOCATIONS_MALFORMED


def test_an_authority_with_ed25519_signs_lists_too() -> None:
    authority = certificates.root(key=ed25519.Ed25519PrivateKey.generate())
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=authority.certificate.subject,
        last_update=certificates.NOW,
        next_update=certificates.NOW + timedelta(days=1),
    )
    assert RevocationList.of(authority.certificate, builder.sign(authority.key, None)).is_of_root


def test_a_set_revokes_what_its_lists_name_by_issuer_and_serial() -> None:
    there = revocation_set(ROOT, OTHER, ISSUER, revoked=(7, 1 << 150))
    assert there.holds(svid(ISSUER, 7))
    assert there.holds(svid(ISSUER, 1 << 150))
    assert not there.holds(svid(ISSUER, 8))
    assert not there.holds(svid(OTHER, 7)), "serials are unique for one issuer alone"
    assert not NO_REVOCATIONS.holds(svid(ISSUER, 7))


def test_the_version_is_that_of_the_content_whatever_the_order() -> None:
    one, two = revocation_list(ISSUER, 7), revocation_list(OTHER)
    assert RevocationSet((one, two)) == RevocationSet((two, one))
    assert RevocationSet((one, two)).version == RevocationSet((two, one)).version
    versions = {
        each.version
        for each in (
            NO_REVOCATIONS,
            RevocationSet((one,)),
            RevocationSet((two,)),
            RevocationSet((one, two)),
            RevocationSet((revocation_list(ISSUER, 7, 8), two)),
        )
    }
    assert len(versions) == 5
    assert RevocationSet((one,)).version == RevocationSet((revocation_list(ISSUER, 7),)).version, "signed once more"
    assert NO_REVOCATIONS.version == ""


def test_the_roots_of_a_bundle_are_covered_when_each_has_a_list() -> None:
    new = certificates.root("root new")
    assert revocation_set(ROOT, ISSUER).covers_roots_of(certificates.bundle(ROOT))
    assert not revocation_set(ROOT, ISSUER).covers_roots_of(certificates.bundle(ROOT, new))
    assert revocation_set(ROOT, new).covers_roots_of(certificates.bundle(ROOT, new))
    assert not revocation_set(ISSUER).covers_roots_of(certificates.bundle(ROOT))


def test_those_that_sign_leaves_are_told_apart_from_roots_and_lists_are_put_together_as_pem() -> None:
    there = revocation_set(ROOT, OTHER, ISSUER)
    leaf_issuers = list(there.of_leaf_issuers())
    assert {each.issuer for each in leaf_issuers} == {OTHER.certificate, ISSUER.certificate}
    assert to_pem(leaf_issuers) == b"".join(each.pem for each in leaf_issuers)
    assert to_pem(()) == b""
