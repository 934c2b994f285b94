"""What makes a certificate and its key an authority that can be relied on: pure, for folders and for offline signing.

Each rule gives the words for what is wrong, such as `has expired`, and nothing where nothing is.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from ca.keys.kinds import AuthorityKey
from citadel.certification_path import UNREADABLE, extension_of, weakness_of
from citadel.name_constraints import forbidding, permitted_hosts
from citadel.possession import MOST_RSA_EXPONENT
from citadel.spiffe import TrustDomain

_CURVES: Final = (ec.SECP256R1, ec.SECP384R1)
_LEAST_RSA_BITS: Final = 2048
_MOST_RSA_BITS: Final = 8192  # BoringSSL, and so Envoy, verifies with no larger one


class KeyUnusableError(Exception):
    """A file holds no private key that an authority can sign with; the text says why, as `is encrypted`."""


def read_authority_key(pem: bytes, *, passphrase: bytes | None = None) -> AuthorityKey:
    """The private key in a PEM file. Raises `KeyUnusableError`."""
    try:
        key = load_pem_private_key(pem, passphrase)
    except TypeError as error:  # what cryptography raises where passphrase and encryption do not go together
        why = "is encrypted" if passphrase is None else "is not encrypted, and a passphrase was given"
        raise KeyUnusableError(why) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        why = "is not one whole private key in PEM" if passphrase is None else "does not open with this passphrase"
        raise KeyUnusableError(why) from error
    return usable_key(key)


def usable_key(key: PrivateKeyTypes) -> AuthorityKey:
    """The key, where authorities may have such a one. Raises `KeyUnusableError`."""
    fault = key_fault(key.public_key())
    if fault:
        raise KeyUnusableError(fault)
    assert isinstance(key, AuthorityKey)  # noqa: S101 - for the type checker
    return key


def key_fault(key: PublicKeyTypes) -> str:
    """Why no authority should have such a key."""
    match key:
        case ec.EllipticCurvePublicKey() if isinstance(key.curve, _CURVES):
            return ""
        case rsa.RSAPublicKey() if not _LEAST_RSA_BITS <= key.key_size <= _MOST_RSA_BITS:
            return f"has an RSA key of {key.key_size} bits, and {_LEAST_RSA_BITS} to {_MOST_RSA_BITS} are accepted"
        case rsa.RSAPublicKey() if key.public_numbers().e > MOST_RSA_EXPONENT:
            return "has an RSA key whose exponent is too large"
        case rsa.RSAPublicKey():
            return ""
        case ec.EllipticCurvePublicKey():
            return f"has a key on the curve {key.curve.name}, and P-256 and P-384 are accepted"
        case _:
            return f"has a key of type {type(key).__name__}, and EC P-256, P-384 and RSA are accepted"


def authority_faults(certificate: x509.Certificate, *, now: datetime, is_anchor: bool = False) -> Iterator[str]:
    """What keeps this certificate from being an authority now, whoever signed it; the first is the worst."""
    try:
        yield from _profile_faults(certificate)
        yield from filter(None, (key_fault(certificate.public_key()), weakness_of(certificate, is_anchor=is_anchor)))
    except UNREADABLE as error:
        yield f"cannot be read: {error}"
        return
    if certificate.not_valid_after_utc <= now:
        yield f"has expired: it ended {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
    if certificate.not_valid_before_utc > now:
        yield f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}"


def root_faults(certificate: x509.Certificate, *, now: datetime) -> Iterator[str]:
    """As `authority_faults`, of a root."""
    yield from authority_faults(certificate, now=now, is_anchor=True)
    if not is_self_signed(certificate):
        yield "is not self-signed, so it is no root"


def domain_fault(certificate: x509.Certificate, trust_domain: TrustDomain) -> str:
    """How an authority says that it is not of this trust domain; one that says nothing may be of any."""
    names = extension_of(certificate, x509.SubjectAlternativeName)
    for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else ():
        if uri != str(trust_domain.id):
            return f"is for {uri}, not {trust_domain.id}"
    if forbidding([certificate], trust_domain) is None:
        return ""
    permitted = permitted_hosts(certificate)
    if not permitted:
        return f"has a name constraint, and may not sign for {trust_domain.name}"
    return f"may sign only within {', '.join(permitted)}, not for {trust_domain.name}"


def trust_domain_of(certificate: x509.Certificate) -> str | None:
    """What it names as its trust domain, as a SPIFFE ID without a path; None where it names none."""
    names = extension_of(certificate, x509.SubjectAlternativeName)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else []
    return uris[0] if uris else None


def fits(key: AuthorityKey, certificate: x509.Certificate) -> bool:
    """Whether the certificate is for this key."""
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return key.public_key().public_bytes(*form) == certificate.public_key().public_bytes(*form)


def is_self_signed(certificate: x509.Certificate) -> bool:
    """Whether it vouches for itself."""
    try:
        certificate.verify_directly_issued_by(certificate)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def _profile_faults(certificate: x509.Certificate) -> Iterator[str]:
    constraints = extension_of(certificate, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        yield "is not a CA certificate"
    usage = extension_of(certificate, x509.KeyUsage)
    if usage is None or not usage.key_cert_sign:
        yield "may not sign certificates: its key usage lacks keyCertSign"
    if extension_of(certificate, x509.SubjectKeyIdentifier) is None:
        yield "has no subject key identifier"
    if not certificate.subject.rdns:  # RFC 5280 section 4.1.2.6: what it signs could not name it
        yield "has an empty subject"
