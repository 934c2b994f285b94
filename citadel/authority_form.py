"""Whether every program of a mesh can read a certificate that is an authority.

`cryptography` reads a name, an extension or an alternative name when it is asked for it, or never. OpenSSL, Envoy and
Go read all at once, and what they cannot read costs more than the one certificate: Envoy refuses the whole context in
which it is among the authorities, and a Go program the whole message, its own trust domain's authorities included.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.name import _ASN1Type as Kind
from OpenSSL import crypto

from citadel.certification_path import UNREADABLE, openssl_forgets

_DIGITS: Final = frozenset("0123456789 ")
_READABLE_KINDS: Final = frozenset(
    {Kind.UTF8String, Kind.PrintableString, Kind.T61String, Kind.IA5String, Kind.BMPString, Kind.NumericString}
)
_POLICY_MAPPINGS: Final = x509.ObjectIdentifier("2.5.29.33")  # parsed by Go, by nobody here, and of use to no SVID
_LABELS: Final = r"[!-,/-9;-~-]+(\.[!-,/-9;-~-]+)*"
_CONSTRAINT: Final = re.compile(rf"(\.?{_LABELS})?")
_HOST: Final = r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(:[0-9]{1,5})?"
_REST: Final = r"([A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*"
_URI: Final = re.compile(rf"[A-Za-z][A-Za-z0-9+.-]*:(//{_HOST}([/?]{_REST})?|[A-Za-z0-9]{_REST})")


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
            kind = attribute._type  # noqa: SLF001 - the encoding, which has no public name
            if kind not in _READABLE_KINDS or (kind is Kind.NumericString and not _DIGITS.issuperset(attribute.value)):
                yield f"its subject or issuer has a {kind.name} that not all can read"
    for extension in certificate.extensions:
        yield from _unreadable_extension(extension)


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


def _unreadable_extension(extension: x509.Extension[x509.ExtensionType]) -> Iterator[str]:
    match extension.value:
        case x509.SubjectAlternativeName() as names:
            for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
                if not _URI.fullmatch(uri):
                    yield "it has an alternative name that is no URI for all"
        case x509.NameConstraints() as constraints:
            for each in (*(constraints.permitted_subtrees or ()), *(constraints.excluded_subtrees or ())):
                is_host = isinstance(each, x509.DNSName | x509.UniformResourceIdentifier)
                if is_host and not _CONSTRAINT.fullmatch(each.value):
                    yield "it has a name constraint that not all can read"
        case x509.UnrecognizedExtension(oid=oid) if oid == _POLICY_MAPPINGS:
            yield "it has policy mappings"
        case _:
            pass
