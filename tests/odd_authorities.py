"""Authorities that `cryptography` loads and that Envoy, OpenSSL or Go cannot read."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.certificates import NOW, Signed, root

_NAME: Final = "AAAAAAAA"
_UTF8: Final = b"\x0c\x08" + _NAME.encode()
_SERIAL: Final = 0x41424344
_ECDSA_SHA256, _ECDSA_SHA384 = bytes.fromhex("2a8648ce3d040302"), bytes.fromhex("2a8648ce3d040303")


def edited(signed: Signed, old: bytes, new: bytes, times: int = -1) -> Signed:
    """The same with other bytes. Nobody checks the signature of a root."""
    assert len(old) == len(new)
    der = signed.der.replace(old, new, times)
    assert der != signed.der
    with warnings.catch_warnings():  # later versions of `cryptography` refuse what this one warns about
        warnings.simplefilter("ignore")
        return Signed(x509.load_der_x509_certificate(der), signed.key)


def odd_authorities() -> Iterator[tuple[str, Signed]]:
    """Each with what is wrong with it."""
    good = root(_NAME, "spiffe://b.test", serial=_SERIAL)
    for problem, kind, text in (
        ("UTF-8 that is none", 0x0C, b"A\xff\xfeAAAAA"),
        ("an INTEGER as a name", 0x02, b"AAAAAAAA"),
        ("an OCTET STRING as a name", 0x04, b"AAAAAAAA"),
        ("a BIT STRING as a name", 0x03, b"\0AAAAAAA"),
        ("a SEQUENCE as a name", 0x30, b"\x0c\x06AAAAAA"),
        ("a VisibleString as a name", 0x1A, b"AAAAAAAA"),
        ("a UniversalString as a name", 0x1C, b"\0\0\0A\0\0\0B"),
        ("digits that are none", 0x12, b"A1234567"),
        ("ASCII that is none", 0x16, b"AA\xe9AAAAA"),
    ):
        yield problem, edited(good, _UTF8, bytes((kind, 8)) + text)
    yield "a negative serial number", edited(good, b"\x02\x04ABCD", b"\x02\x04\xffBCD")
    yield "two algorithms of its signature", edited(good, _ECDSA_SHA256, _ECDSA_SHA384, 1)
    point = good.der.index(b"\x03\x42\x00\x04") + 3
    hybrid = bytes((6 + good.der[point + 64] % 2,))
    yield "a hybrid point", edited(good, good.der[point : point + 3], hybrid + good.der[point + 1 : point + 3])
    for problem, names in (
        ("a URI with a space", "spiffe://b.test/a b"),
        ("a URI with half an escape", "spiffe://b.test/%zz"),
        ("a URI of no host", "spiffe://b..test/"),
        ("a port that is none", "spiffe://b.test:http/"),
    ):
        yield problem, root(_NAME, names)
    for oid, problem in (("2.5.29.14", "a key identifier"), ("2.5.29.33", "policy mappings"), ("2.5.29.37", "usages")):
        junk = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), b"junk")
        yield f"{problem} that cannot be read", _with_extension(junk)
    yield "a constraint of no host", _with_extension(x509.NameConstraints([x509.DNSName("a..b c")], None))


def _with_extension(extension: x509.ExtensionType) -> Signed:
    """Without identifiers and names of its own, so that none of them comes twice."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _NAME)])
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(extension, critical=False)
    )
    return Signed(builder.sign(key, hashes.SHA256()), key)
