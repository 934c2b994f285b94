"""One revocation list: what it looks like (pure; RFC 5280 section 5)."""

from __future__ import annotations

from collections.abc import Iterable

from cryptography import x509

from ca.authority.certificates import authority_key_identifier
from ca.keys.kinds import AuthorityKey, hash_for
from ca.revocation.model import RevokedCertificate


def build_crl(
    *,
    issuer: x509.Certificate,
    key: AuthorityKey,
    number: int,
    revoked: Iterable[RevokedCertificate],
) -> x509.CertificateRevocationList:
    """The list of `issuer`, valid exactly as long as `issuer` itself is.

    A verifier refuses every certificate of an issuer whose list lies in its future or has lapsed. Dated like this, a
    list is refused only where the issuer is refused too, whatever the clocks say; that it is fresh is known by its push
    and its number.
    """
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(issuer.not_valid_before_utc)
        .next_update(issuer.not_valid_after_utc)
        .add_extension(authority_key_identifier(issuer), critical=False)
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    for each in sorted(revoked, key=lambda one: (one.revoked_at, one.serial)):
        builder = builder.add_revoked_certificate(_line(each))
    return builder.sign(key, hash_for(key))


def number_of(crl: x509.CertificateRevocationList) -> int:
    """The number of a list that `build_crl` made."""
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def _line(certificate: RevokedCertificate) -> x509.RevokedCertificate:
    builder = (
        x509.RevokedCertificateBuilder()
        .serial_number(int(certificate.serial, 16))
        .revocation_date(certificate.revoked_at)
    )
    if certificate.code is not x509.ReasonFlags.unspecified:  # section 5.3.1: then the extension should be absent
        builder = builder.add_extension(x509.CRLReason(certificate.code), critical=False)
    return builder.build()
