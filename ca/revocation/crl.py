"""One revocation list: what it looks like (pure; RFC 5280 section 5)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ca.authority.certificates import authority_key_identifier
from ca.keys.kinds import AuthorityKey, hash_for
from ca.revocation.model import RevokedCertificate
from citadel.certification_path import extension_of

_LARGEST_NUMBER: Final = 2**159 - 1  # RFC 5280 section 5.2.3: 20 octets
_RSA_BITS: Final = 2048


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
    lines = (
        _line(int(each.serial, 16), each.revoked_at, each.code)
        for each in sorted(revoked, key=lambda one: (one.revoked_at, one.serial))
    )
    return _signed(issuer, key, number, lines)


def is_as_built(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    """Whether this list of `issuer` is one that `build_crl` makes, byte by byte but for its signature.

    Envoy, OpenSSL and `cryptography` each refuse some of what the others take; what is built here they all take. May
    raise one of `UNREADABLE`.
    """
    number = extension_of(crl, x509.CRLNumber)
    if number is None or not 0 <= number.crl_number <= _LARGEST_NUMBER:
        return False
    lines = (_line(each.serial_number, each.revocation_date_utc, _code_of(each)) for each in crl)
    again = _signed(issuer, _key_like(issuer), number.crl_number, lines)
    return again.tbs_certlist_bytes == crl.tbs_certlist_bytes


def number_of(crl: x509.CertificateRevocationList) -> int:
    """The number of a list that `build_crl` made."""
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def _signed(
    issuer: x509.Certificate, key: AuthorityKey, number: int, lines: Iterable[x509.RevokedCertificate]
) -> x509.CertificateRevocationList:
    # All lines at once: added one by one, each would copy those before.
    return (
        x509.CertificateRevocationListBuilder(revoked_certificates=list(lines))
        .issuer_name(issuer.subject)
        .last_update(issuer.not_valid_before_utc)
        .next_update(issuer.not_valid_after_utc)
        .add_extension(authority_key_identifier(issuer), critical=False)
        .add_extension(x509.CRLNumber(number), critical=False)
        .sign(key, hash_for(key))
    )


def _line(serial: int, revoked_at: datetime, code: x509.ReasonFlags) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(revoked_at)
    if code is not x509.ReasonFlags.unspecified:  # section 5.3.1: then the extension should be absent
        builder = builder.add_extension(x509.CRLReason(code), critical=False)
    return builder.build()


def _code_of(line: x509.RevokedCertificate) -> x509.ReasonFlags:
    code = extension_of(line, x509.CRLReason)
    return code.reason if code is not None else x509.ReasonFlags.unspecified


def _key_like(issuer: x509.Certificate) -> AuthorityKey:
    """A key whose signatures are called like those of this authority; what is signed says how."""
    public = issuer.public_key()
    if isinstance(public, ec.EllipticCurvePublicKey):
        return ec.generate_private_key(public.curve)
    return rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
