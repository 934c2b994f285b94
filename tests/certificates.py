"""Certificates of every good and bad kind, for tests: profiles as SPIFFE asks, and arguments that break a rule each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from citadel.bundle import TrustBundle
from citadel.spiffe import TrustDomain

NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
A_TEST: Final = TrustDomain("a.test")
B_TEST: Final = TrustDomain("b.test")
WORKLOAD: Final = "spiffe://a.test/workload"

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

_SHA256_WITH_RSA: Final = bytes.fromhex("2a864886f70d01010b")
_SHA1_WITH_RSA: Final = bytes.fromhex("2a864886f70d010105")

# A name and an encoding that no program knows.
UNKNOWN_CRITICAL: Final = (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00"), True)


@dataclass(frozen=True)
class Signed:
    """A certificate and its private key, so that it can sign the next one."""

    certificate: x509.Certificate
    key: PrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)


def key_usage(*names: str) -> x509.KeyUsage:
    """Key usage with exactly these bits, by cryptography's names."""
    bits = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(**(bits | dict.fromkeys(names, True)))


def san(*uris: str, dns: Sequence[str] = ()) -> x509.SubjectAlternativeName:
    """URI names as they are given, with no check."""
    return x509.SubjectAlternativeName(
        [x509.UniformResourceIdentifier(uri) for uri in uris] + [x509.DNSName(name) for name in dns]
    )


def resigned_with_sha1(signed: Signed, issuer: Signed) -> Signed:
    """The same certificate signed with SHA-1 by `issuer`'s RSA key, which cryptography no longer does."""
    assert isinstance(issuer.key, rsa.RSAPrivateKey)
    numbers = issuer.key.private_numbers()
    modulus = numbers.public_numbers.n
    tbs = signed.certificate.tbs_certificate_bytes.replace(_SHA256_WITH_RSA, _SHA1_WITH_RSA)
    digest = hashlib.sha1(tbs, usedforsecurity=False).digest()
    size = (modulus.bit_length() + 7) // 8
    # RFC 8017 section 9.2: EMSA-PKCS1-v1_5 with the DigestInfo of SHA-1.
    info = bytes.fromhex("3021300906052b0e03021a05000414") + digest
    padded = b"\x00\x01" + b"\xff" * (size - len(info) - 3) + b"\x00" + info
    signature = pow(int.from_bytes(padded), numbers.d, modulus).to_bytes(size)
    der = signed.der.replace(_SHA256_WITH_RSA, _SHA1_WITH_RSA)
    return Signed(x509.load_der_x509_certificate(der[:-size] + signature), signed.key)


# A TLS feature whose number has no name: `cryptography` finds out when any extension is asked for.
UNNAMED_FEATURE: Final = x509.UnrecognizedExtension(
    x509.ObjectIdentifier("1.3.6.1.5.5.7.1.24"), bytes.fromhex("3003020103")
)


def permitted(*hosts: str) -> tuple[x509.ExtensionType, bool]:
    """Critical name constraints that permit URIs of these hosts alone."""
    return x509.NameConstraints([x509.UniformResourceIdentifier(host) for host in hosts], None), True


def excluded(*hosts: str) -> tuple[x509.ExtensionType, bool]:
    """Critical name constraints that exclude URIs of these hosts."""
    return x509.NameConstraints(None, [x509.UniformResourceIdentifier(host) for host in hosts]), True


def explicit_policy_required() -> tuple[x509.ExtensionType, bool]:
    """Critical policy constraints: every certificate of the path must have a policy."""
    return x509.PolicyConstraints(require_explicit_policy=0, inhibit_policy_mapping=None), True


def root(name: str = "root a.test", uri: str | None = "spiffe://a.test", **changes: object) -> Signed:
    """A self-signed root."""
    return _authority(None, name, uri, path_length=None, changes=changes)


def intermediate(
    issuer: Signed,
    name: str = "issuing a.test",
    uri: str | None = "spiffe://a.test",
    path_length: int | None = 0,
    **changes: object,
) -> Signed:
    """A CA certificate under `issuer`."""
    return _authority(issuer, name, uri, path_length=path_length, changes=changes)


def leaf(issuer: Signed, *uris: str, dns: Sequence[str] = (), **changes: object) -> Signed:
    """An X.509-SVID, of `WORKLOAD` unless other URIs are given."""
    profile: dict[str, object] = {
        "subject": x509.Name([]),
        "lifetime": timedelta(hours=1),
        "constraints": x509.BasicConstraints(ca=False, path_length=None),
        "usage": key_usage("digital_signature"),
        "names": san(*(uris or (WORKLOAD,)), dns=dns),
        "extra": ((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False),),
    }
    return _sign(issuer, **(profile | changes))  # type: ignore[arg-type] # a table of changes to the profile


def bundle(*authorities: Signed, trust_domain: TrustDomain = A_TEST, **fields: object) -> TrustBundle:
    """The trust bundle of these authorities."""
    return TrustBundle(
        trust_domain=trust_domain,
        x509_authorities=tuple(authority.certificate for authority in authorities),
        **fields,  # type: ignore[arg-type] # passed on
    )


@cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    """One RSA key for each size: making one takes long."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def with_long_exponent(key: rsa.RSAPrivateKey) -> rsa.RSAPrivateKey:
    """The same key with its exponents changed over: each verification costs what a signature does, or more."""
    ours = key.private_numbers()
    return rsa.RSAPrivateNumbers(
        p=ours.p,
        q=ours.q,
        d=ours.public_numbers.e,
        dmp1=ours.public_numbers.e,
        dmq1=ours.public_numbers.e,
        iqmp=ours.iqmp,
        public_numbers=rsa.RSAPublicNumbers(e=ours.d, n=ours.public_numbers.n),
    ).private_key()


def _authority(
    issuer: Signed | None, name: str, uri: str | None, *, path_length: int | None, changes: dict[str, object]
) -> Signed:
    profile: dict[str, object] = {
        "subject": x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
        "lifetime": timedelta(days=7),
        "constraints": x509.BasicConstraints(ca=True, path_length=path_length),
        "usage": key_usage("key_cert_sign", "crl_sign"),
        "names": san(uri) if uri else None,
    }
    return _sign(issuer, **(profile | changes))  # type: ignore[arg-type] # a table of changes to the profile


def _sign(
    issuer: Signed | None,
    *,
    subject: x509.Name,
    constraints: x509.BasicConstraints | None,
    usage: x509.KeyUsage | None,
    names: x509.ExtensionType | None,
    lifetime: timedelta,
    not_before: datetime = NOW - timedelta(minutes=1),
    not_after: datetime | None = None,
    extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
    key: PrivateKey | None = None,
    digest: hashes.SHA256 | hashes.SHA384 | None = None,
    serial: int | None = None,
    issuer_name: x509.Name | None = None,
) -> Signed:
    key = key or ec.generate_private_key(ec.SECP256R1())
    signer = issuer.key if issuer else key
    builder = x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=issuer_name or (issuer.certificate.subject if issuer else subject),
        public_key=key.public_key(),
        serial_number=serial or x509.random_serial_number(),
        not_valid_before=not_before,
        not_valid_after=not_after or NOW + lifetime,
    )
    extensions: list[tuple[x509.ExtensionType | None, bool]] = [
        (constraints, True),
        (usage, True),
        (names, not list(subject)),  # RFC 5280 section 4.1.2.6: critical where the subject is empty
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False),
        *extra,
    ]
    for extension, critical in extensions:
        if extension is not None:
            builder = builder.add_extension(extension, critical)
    algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else digest or hashes.SHA256()
    return Signed(builder.sign(signer, algorithm), key)
