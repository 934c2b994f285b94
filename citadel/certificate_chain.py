"""Certificate chains as people and the Workload API hand them over: PEM, or DER certificates one after the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from cryptography import x509

from citadel.certification_path import UNREADABLE
from citadel.errors import InvalidArgument, Reason

_CERTIFICATE_MARKER: Final = re.compile(rb"-----BEGIN (?:X509 )?CERTIFICATE-----")


def read_chain(data: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates of a PEM file, or of DER certificates one after the other, leaf first.

    Raises `InvalidArgument` (`svid_malformed`) where they are not certificates.
    """
    if not data:
        raise _malformed("the input is empty", fix="give a file with the certificate chain")
    if b"-----BEGIN" in data:
        return _read_pem(data)
    try:
        return tuple(x509.load_der_x509_certificate(der) for der in _split_der(data))
    except UNREADABLE as error:
        raise _malformed("the input is not a chain of certificates in PEM or DER") from error


def _read_pem(data: bytes) -> tuple[x509.Certificate, ...]:
    marked = len(_CERTIFICATE_MARKER.findall(data))
    if not marked:
        found = "a private key, not a certificate" if b"PRIVATE KEY-----" in data else "PEM without a certificate"
        raise _malformed(f"the input is {found}", fix="give a file with the certificate chain")
    try:
        chain = tuple(x509.load_pem_x509_certificates(data))
    except UNREADABLE as error:
        raise _malformed("a certificate in the PEM is damaged") from error
    if len(chain) != marked:  # what is not closed is skipped without an error
        raise _malformed(f"a certificate in the PEM is damaged: {marked} begin, {len(chain)} can be read")
    return chain


def _split_der(data: bytes) -> Iterator[bytes]:
    """Cut concatenated DER values apart by their lengths (X.690 section 8.1.3), as the Workload API sends chains."""
    while data:
        length, header = int.from_bytes(data[1:2]), 2
        if length & 0x80:
            header += length & 0x7F
            length = int.from_bytes(data[2:header])
        yield data[: header + length]
        data = data[header + length :]


def _malformed(message: str, *, fix: str = "") -> InvalidArgument:
    return InvalidArgument(Reason.SVID_MALFORMED, message, fix=fix)
