"""Revocation lists that one of `cryptography`, Envoy and OpenSSL takes and another does not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca.authority.certificates import authority_key_identifier

_SEQUENCE: Final = 0x30
_TIME: Final = bytes.fromhex("170d") + b"260101000000Z"
_NULL: Final = bytes.fromhex("0500")


def plain_list(issuer: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bytes:
    """One that is as it should be, and revokes the serial 7."""
    return _signed(_parts(issuer, key), key)


def odd_lists(issuer: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Iterator[tuple[str, bytes]]:
    """Lists of this authority, which signed them, each with what is odd about it."""
    version, algorithm, name, begin, end, _, extensions = parts = _parts(issuer, key)

    def of(*lines: bytes, more: bytes = extensions) -> bytes:
        return _signed([version, algorithm, name, begin, end, _tlv(_SEQUENCE, *lines), more], key)

    line = _tlv(_SEQUENCE, _tlv(2, b"\x07"), _TIME)
    yield "empty extensions", of(line, more=_tlv(0xA0, _tlv(_SEQUENCE)))
    yield "a line with empty extensions", of(_tlv(_SEQUENCE, _tlv(2, b"\x07"), _TIME, _tlv(_SEQUENCE)))
    yield "no extensions", of(line, more=b"")
    yield "no lines, and a place for them", of()
    yield "a negative serial number", of(_tlv(_SEQUENCE, _tlv(2, b"\xff"), _TIME))
    yield "a long serial number", of(_tlv(_SEQUENCE, _tlv(2, b"\x01" * 60), _TIME))
    yield "a day that there is not", of(_tlv(_SEQUENCE, _tlv(2, b"\x07"), _TIME.replace(b"2601", b"2613")))
    yield "a time in another form", of(_tlv(_SEQUENCE, _tlv(2, b"\x07"), _tlv(0x18, b"20260101000000Z")))
    oid = _inside(algorithm)[0]
    for problem, inner, outer in (
        ("parameters of its algorithm", _tlv(_SEQUENCE, oid, _NULL), _tlv(_SEQUENCE, oid, _NULL)),
        ("two algorithms", algorithm, _tlv(_SEQUENCE, oid, _NULL)),
    ):
        yield problem, _signed([version, inner, *parts[2:]], key, outer)
    yield "the key of somebody else", _with(issuer, key, x509.AuthorityKeyIdentifier(b"x" * 20, None, None))
    yield "no key", _with(issuer, key)
    yield "a name beside the key", _with(issuer, key, _issued_by(issuer))


def _issued_by(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    key_id = authority_key_identifier(issuer).key_identifier
    return x509.AuthorityKeyIdentifier(key_id, [x509.DirectoryName(issuer.issuer)], issuer.serial_number)


def _with(issuer: x509.Certificate, key: ec.EllipticCurvePrivateKey, *extensions: x509.ExtensionType) -> bytes:
    builder = _builder(issuer)
    for each in extensions:
        builder = builder.add_extension(each, critical=False)
    made = builder.add_extension(x509.CRLNumber(7), critical=False).sign(key, hashes.SHA256())
    return made.public_bytes(Encoding.DER)


def _builder(issuer: x509.Certificate) -> x509.CertificateRevocationListBuilder:
    line = x509.RevokedCertificateBuilder().serial_number(7).revocation_date(datetime(2026, 1, 1)).build()  # noqa: DTZ001 - the naive time is UTC here
    return (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(issuer.not_valid_before_utc)
        .next_update(issuer.not_valid_after_utc)
        .add_revoked_certificate(line)
    )


def _parts(issuer: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> list[bytes]:
    """The seven of what is signed: version, algorithm, issuer, two dates, lines, extensions."""
    builder = _builder(issuer).add_extension(authority_key_identifier(issuer), critical=False)
    made = builder.add_extension(x509.CRLNumber(7), critical=False).sign(key, hashes.SHA256())
    return _inside(made.tbs_certlist_bytes)


def _signed(parts: list[bytes], key: ec.EllipticCurvePrivateKey, algorithm: bytes | None = None) -> bytes:
    signed = _tlv(_SEQUENCE, *parts)
    signature = key.sign(signed, ec.ECDSA(hashes.SHA256()))
    return _tlv(_SEQUENCE, signed, algorithm or parts[1], _tlv(3, b"\0", signature))


def _tlv(tag: int, *content: bytes) -> bytes:
    whole = b"".join(content)
    size = len(whole)
    if size < 0x80:
        return bytes([tag, size]) + whole
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + whole


def _inside(der: bytes) -> list[bytes]:
    """What a value consists of, each whole."""
    found, rest = [], der[_head(der) :]
    while rest:
        end = _head(rest) + _size(rest)
        found.append(rest[:end])
        rest = rest[end:]
    return found


def _head(der: bytes) -> int:
    return 2 + (der[1] & 0x7F if der[1] & 0x80 else 0)


def _size(der: bytes) -> int:
    return int.from_bytes(der[2 : _head(der)], "big") if der[1] & 0x80 else der[1]
