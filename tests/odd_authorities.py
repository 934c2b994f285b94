"""Authorities that `cryptography` loads and that Envoy, OpenSSL or Go cannot read."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network
from random import Random
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, ExtensionOID, NameOID

from tests.certificates import NOW, Signed, root, rsa_key

_NAME: Final = "AAAAAAAA"
_UTF8: Final = b"\x0c\x08" + _NAME.encode()
_SERIAL: Final = 0x41424344
_UNKNOWN: Final = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
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
    yield from _odd_constraints()
    yield from _odd_extensions()
    modulus = rsa_key().public_key().public_numbers().n
    for problem, key in (
        ("an exponent that is not short", rsa.RSAPublicNumbers(e=2**80 + 13, n=modulus)),
        ("a key that is too long", rsa.RSAPublicNumbers(e=65537, n=2**8193 + 1)),
    ):
        yield problem, _with_extension(_UNKNOWN, of=key.public_key())


def rich_authority() -> Signed:
    """With all that private authorities have in their certificates: AD CS, Vault, AWS, cfssl, OpenSSL of long ago."""
    where = x509.UniformResourceIdentifier("http://ca.a.test/root.crl")
    oid = x509.ObjectIdentifier
    policies = [
        x509.PolicyInformation(oid("2.5.29.32.0"), None),
        x509.PolicyInformation(oid("1.3.6.1.4.1.99999.7"), ["http://ca.a.test/cps", x509.UserNotice(None, "as it is")]),
    ]
    names = [
        x509.DNSName(".a.test"),
        x509.UniformResourceIdentifier("a.test"),
        x509.RFC822Name("a.test"),
        x509.RFC822Name("ops@a.test"),
        x509.IPAddress(IPv4Network("10.0.0.0/8")),
        x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a")])),
    ]
    extra = (
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, oid("1.3.6.1.4.1.311.10.3.4")]),
        x509.CRLDistributionPoints([x509.DistributionPoint([where], None, None, None)]),
        x509.FreshestCRL([x509.DistributionPoint([where], None, None, None)]),
        x509.AuthorityInformationAccess(
            [
                x509.AccessDescription(AuthorityInformationAccessOID.OCSP, where),
                x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, where),
            ]
        ),
        x509.CertificatePolicies(policies),
        x509.PolicyConstraints(0, None),
        x509.InhibitAnyPolicy(1),
        x509.NameConstraints(names, [x509.DNSName("b.test")]),
        x509.IssuerAlternativeName([where]),
        x509.UnrecognizedExtension(oid("1.3.6.1.4.1.311.21.1"), b"\x02\x01\x00"),  # the version of a CA of AD CS
        x509.UnrecognizedExtension(oid("1.3.6.1.4.1.311.20.2"), b"\x1e\x04\x00C\x00A"),
        x509.UnrecognizedExtension(oid("2.16.840.1.113730.1.1"), b"\x03\x02\x01\x06"),  # Netscape's type
        x509.UnrecognizedExtension(oid("2.16.840.1.113730.1.13"), b"\x16\x04made"),
    )
    return root("rich", extra=[(each, False) for each in extra])


def mutants(signed: Signed, *, times: int, seed: int) -> Iterator[x509.Certificate]:
    """Certificates that are the same but for some bytes, as far as `cryptography` loads them."""
    draw = Random(seed)  # noqa: S311 - the same ones each time
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(times):
            der = bytearray(signed.der)
            for _ in range(draw.choice((1, 1, 2, 4))):
                at = draw.randrange(len(der))
                der[at] = draw.choice((draw.randrange(256), der[at] ^ 1 << draw.randrange(8), 0x80, 0x2E, 0xFF))
            with suppress(ValueError, x509.InvalidVersion):
                yield x509.load_der_x509_certificate(bytes(der))


def _odd_constraints() -> Iterator[tuple[str, Signed]]:
    for problem, name in (
        ("a constraint of no host", x509.DNSName("a..b c")),
        ("a constraint of mail to no host", x509.RFC822Name("a..b")),
        ("a constraint of mail to a dot", x509.RFC822Name(".")),
        ("a constraint of mail to half a mailbox", x509.RFC822Name("a..b@c")),
        ("a constraint of a URI to an address", x509.UniformResourceIdentifier("10.0.0.1")),
        ("a constraint of an address that is no network", x509.IPAddress(IPv4Address("10.0.0.1"))),
    ):
        yield problem, _with_extension(_constraint(name), critical=True)


def _constraint(name: x509.GeneralName) -> x509.ExtensionType:
    """As in a certificate: `cryptography` itself would not make all of them."""
    general = x509.SubjectAlternativeName([name]).public_bytes()[2:]
    subtrees = b"\xa0" + bytes((len(general) + 2, 0x30, len(general))) + general
    whole = bytes((0x30, len(subtrees))) + subtrees
    return x509.UnrecognizedExtension(ExtensionOID.NAME_CONSTRAINTS, whole)


def _odd_extensions() -> Iterator[tuple[str, Signed]]:
    long = x509.ObjectIdentifier("1.3.6.1.4.1.2147483648")
    policy = x509.PolicyInformation(x509.ObjectIdentifier("1.2.3.4"), None)
    where = x509.UniformResourceIdentifier("http://a.test")
    for problem, extension in (
        ("an extension with a long identifier", x509.UnrecognizedExtension(long, b"\x05\x00")),
        ("a usage with a long identifier", x509.ExtendedKeyUsage([long])),
        ("a place with a long identifier", x509.AuthorityInformationAccess([x509.AccessDescription(long, where)])),
        ("a policy that is named twice", x509.CertificatePolicies([policy, policy])),
        ("a network as a name", x509.SubjectAlternativeName([x509.IPAddress(IPv4Network("10.0.0.0/8"))])),
        ("policies inhibited too late", x509.InhibitAnyPolicy(2**70)),
        ("policies required too late", x509.PolicyConstraints(2**63, None)),
        ("blocks of addresses", x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.5.5.7.1.7"), b"0\x00")),
    ):
        yield problem, _with_extension(extension)
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    places = x509.AccessDescription(AuthorityInformationAccessOID.OCSP, where)
    for problem, extension in (
        ("a critical key identifier", x509.SubjectKeyIdentifier.from_public_key(key)),
        ("a critical identifier of its issuer's key", x509.AuthorityKeyIdentifier.from_issuer_public_key(key)),
        ("critical places", x509.AuthorityInformationAccess([places])),
    ):
        yield problem, _with_extension(extension, critical=True)


def _with_extension(
    extension: x509.ExtensionType, *, critical: bool = False, of: rsa.RSAPublicKey | None = None
) -> Signed:
    """Without identifiers and names of its own, so that none of them comes twice."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _NAME)])
    builder = (
        x509.CertificateBuilder(name, name, of or key.public_key(), 1, NOW, NOW + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(extension, critical=critical)
    )
    return Signed(builder.sign(key, hashes.SHA256()), key)
