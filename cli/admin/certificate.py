"""What a certificate says, and which rules of X509-SVID.md it breaks: pure, for `svid inspect` and `bundle show`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from citadel.certification_path import UNREADABLE
from citadel.errors import InvalidArgument
from citadel.serial import serial_hex
from citadel.svid import X509Svid

T = TypeVar("T")
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

_KEY_USAGES: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)


def describe(certificate: x509.Certificate) -> dict[str, Any]:
    """What one certificate says, as JSON values; what cannot be read is None."""
    names = _extension(certificate, x509.SubjectAlternativeName)
    usage = _extension(certificate, x509.KeyUsage)
    purposes = _extension(certificate, x509.ExtendedKeyUsage)
    constraints = _extension(certificate, x509.BasicConstraints)
    return {
        "subject": _try(lambda: name_text(certificate.subject)),
        "issuer": _try(lambda: name_text(certificate.issuer)),
        "serial": serial_hex(certificate.serial_number),
        "not_before": rfc3339(certificate.not_valid_before_utc),
        "not_after": rfc3339(certificate.not_valid_after_utc),
        "key": _key(certificate),
        "signature_algorithm": _try(lambda: certificate.signature_algorithm_oid._name),  # noqa: SLF001 - its only name
        "sans": {
            "uri": names.value.get_values_for_type(x509.UniformResourceIdentifier) if names else [],
            "dns": names.value.get_values_for_type(x509.DNSName) if names else [],
            "ip": [str(ip) for ip in names.value.get_values_for_type(x509.IPAddress)] if names else [],
        },
        "is_ca": bool(constraints and constraints.value.ca),
        "key_usage": [name for name in _KEY_USAGES if usage and getattr(usage.value, name)],
        "extended_key_usage": [purpose._name for purpose in purposes.value] if purposes else [],  # noqa: SLF001
    }


def broken_rules(chain: Sequence[x509.Certificate], now: datetime) -> list[str]:
    """What keeps the chain's leaf from being a good X509-SVID now, with the sections of X509-SVID.md."""
    problems = []
    try:
        X509Svid.from_der([certificate.public_bytes(Encoding.DER) for certificate in chain])
    except InvalidArgument as error:
        problems.append(error.message)
    problems += [
        f"certificate {place} was not issued by the one after it (RFC 5280 section 6.1)"
        for place, (below, above) in enumerate(pairwise(chain), start=1)
        if not _is_issued_by(below, above)
    ]
    return [*problems, *_leaf_problems(chain[0], now)]


def name_text(name: x509.Name) -> str:
    """A distinguished name as RFC 4514 writes it, with a name for the attribute that it leaves a number."""
    return name.rfc4514_string({NameOID.SERIAL_NUMBER: "serialNumber"})


def rfc3339(value: datetime) -> str:
    """A UTC moment to the second."""
    return value.strftime("%Y-%m-%dT%H:%M:%SZ")


def _leaf_problems(leaf: x509.Certificate, now: datetime) -> Iterator[str]:
    if now > leaf.not_valid_after_utc:
        yield "it has expired (section 5.1)"
    if now < leaf.not_valid_before_utc:
        yield "it is not valid yet (section 5.1)"
    usage = _extension(leaf, x509.KeyUsage)
    if usage is None:
        yield "it has no key usage (section 4.3)"
    elif not usage.critical:
        yield "its key usage is not critical (section 4.3)"
    if usage is not None and not usage.value.digital_signature:
        yield "its key usage lacks digitalSignature (section 4.3)"
    purposes = _extension(leaf, x509.ExtendedKeyUsage)
    if purposes is not None and not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= set(
        purposes.value
    ):
        yield "its extended key usage lacks serverAuth or clientAuth (section 4.4)"
    names = _extension(leaf, x509.SubjectAlternativeName)
    if names is not None and not names.critical and not list(leaf.subject):
        yield "its subject is empty and its SAN not critical (RFC 5280 section 4.1.2.6)"


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> x509.Extension[_Extension] | None:
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except (x509.ExtensionNotFound, *UNREADABLE):
        return None


def _key(certificate: x509.Certificate) -> str | None:
    key = _try(certificate.public_key)
    match key:
        case ec.EllipticCurvePublicKey():
            return f"EC {key.curve.name}"
        case rsa.RSAPublicKey():
            return f"RSA {key.key_size}"
        case None:
            return None
        case _:
            return type(key).__name__.removesuffix("PublicKey")


def _try(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except UNREADABLE:
        return None
