"""Whether every program of a mesh can read a certificate that is an authority.

`cryptography` reads a name, an extension or an alternative name when it is asked for it, or never. OpenSSL, Envoy and
Go read all at once, and what they cannot read costs more than the one certificate: Envoy refuses the whole context in
which it is among the authorities, and a Go program the whole message, its own trust domain's authorities included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.name import _ASN1Type as Kind
from OpenSSL import crypto

from citadel.authority_extensions import long_identifiers, problems_of
from citadel.certification_path import UNREADABLE, openssl_forgets
from citadel.possession import MOST_RSA_BITS, MOST_RSA_EXPONENT

_DIGITS: Final = frozenset("0123456789 ")
_READABLE_KINDS: Final = frozenset(
    {Kind.UTF8String, Kind.PrintableString, Kind.T61String, Kind.IA5String, Kind.BMPString, Kind.NumericString}
)


def unreadable(certificate: x509.Certificate) -> str:
    """Why some program of a mesh cannot read this; empty where all can."""
    try:
        return next(_problems(certificate), "")
    except UNREADABLE as error:
        return f"it cannot be read: {error}"
    except crypto.Error:
        return "OpenSSL cannot read it"


def _problems(certificate: x509.Certificate) -> Iterator[str]:
    with openssl_forgets():
        crypto.X509.from_cryptography(certificate)
    if certificate.version is not x509.Version.v3:
        yield "it has extensions and is not of version 3"
    if certificate.not_valid_before_utc > certificate.not_valid_after_utc:
        yield "it ends before it begins"
    yield from _mended_by_some(certificate)
    for name in (certificate.subject, certificate.issuer):
        for attribute in name:
            yield from long_identifiers(attribute.oid)
            kind = attribute._type  # noqa: SLF001 - the encoding, which has no public name
            if kind not in _READABLE_KINDS or (kind is Kind.NumericString and not _DIGITS.issuperset(attribute.value)):
                yield f"its subject or issuer has a {kind.name} that not all can read"
    yield from long_identifiers(certificate.signature_algorithm_oid)
    yield from _costly_key(certificate)
    for extension in certificate.extensions:
        yield from problems_of(extension)


def _mended_by_some(certificate: x509.Certificate) -> Iterator[str]:
    """Go refuses what OpenSSL mends: a number, an algorithm or a key in a form of its own. A serial of 0 all take."""
    whole, signed = certificate.public_bytes(Encoding.DER), certificate.tbs_certificate_bytes
    _, outer, _ = _elements(whole)
    _, serial, inner, _, _, _, key, *_ = _elements(signed)
    if serial[2] & 0x80:
        yield "its serial number is negative"
    if inner != outer:
        yield "it names two algorithms of its signature"
    if key != certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
        yield "its key is not in the usual form"


def _elements(sequence: bytes) -> Sequence[bytes]:
    """Those of a SEQUENCE in DER, each whole; that it is good DER is known."""
    found, at = [], _header(sequence, 0)[0]
    while at < len(sequence):
        content, size = _header(sequence, at)
        found.append(sequence[at : content + size])
        at = content + size
    return found


def _header(der: bytes, at: int) -> tuple[int, int]:
    """Where the content of the element at `at` begins, and how long it is."""
    first = der[at + 1]
    if first < 0x80:  # X.690 8.1.3: the length itself, or of how many bytes it is
        return at + 2, first
    content = at + 2 + (first & 0x7F)
    return content, int.from_bytes(der[at + 2 : content])


def _costly_key(certificate: x509.Certificate) -> Iterator[str]:
    match certificate.public_key():
        case rsa.RSAPublicKey() as key if key.key_size > MOST_RSA_BITS:
            yield f"it has an RSA key of {key.key_size} bits, and {MOST_RSA_BITS} is the most that all take"
        case rsa.RSAPublicKey() as key if key.public_numbers().e > MOST_RSA_EXPONENT:
            yield "it has an RSA key with a long exponent"
        case _:
            pass
