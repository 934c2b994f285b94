"""The one profile of a leaf: X509-SVID to the letter (X509-01 to X509-06, X509-11, X509-13, X509-17 to X509-27)."""

from __future__ import annotations

from typing import Any, Final, Protocol, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from ca.authority.certificates import authority_key_identifier
from ca.issuance.lifetime import Validity
from ca.keys.kinds import AuthorityKey, hash_for
from citadel.spiffe import SpiffeId

_KEY_USAGE: Final = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
_EXTENDED_KEY_USAGE: Final = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
_NO_CA: Final = x509.BasicConstraints(ca=False, path_length=None)
EMPTY_SUBJECT: Final = x509.Name([])

Extension: TypeAlias = x509.Extension[x509.ExtensionType]


class LeafSigner(Protocol):
    """Signs leaves under one issuing authority."""

    def sign(
        self,
        *,
        key: AuthorityKey,
        spiffe_id: SpiffeId,
        dns_names: tuple[str, ...],
        public_key: bytes,
        validity: Validity,
        serial: int,
    ) -> bytes:
        """A leaf for `spiffe_id` and the key of this SubjectPublicKeyInfo, both in DER, signed by `key`."""
        ...


class PlainLeafSigner:
    """A `LeafSigner` that takes cryptography's builder, which decides what a leaf is, byte for byte."""

    def __init__(self, *, issuer: x509.Certificate) -> None:
        self._issuer_name = issuer.subject
        self._shared = shared_extensions(issuer)

    def sign(
        self,
        *,
        key: AuthorityKey,
        spiffe_id: SpiffeId,
        dns_names: tuple[str, ...],
        public_key: bytes,
        validity: Validity,
        serial: int,
    ) -> bytes:
        leaf_key: Any = load_der_public_key(public_key)  # of one of the kinds that `csr.public_key_of` lets through
        builder = x509.CertificateBuilder(
            issuer_name=self._issuer_name,
            subject_name=EMPTY_SUBJECT,
            public_key=leaf_key,
            serial_number=serial,
            not_valid_before=validity.not_before,
            not_valid_after=validity.not_after,
            extensions=[
                *self._shared,
                _extension(x509.SubjectKeyIdentifier.from_public_key(leaf_key)),
                names(spiffe_id, dns_names),
            ],
        )
        return builder.sign(key, hash_for(key)).public_bytes(Encoding.DER)


def shared_extensions(issuer: x509.Certificate) -> tuple[Extension, ...]:
    """What all leaves under one issuer have in common. After these come the key identifier and `names`, no more."""
    return (
        _extension(_KEY_USAGE, critical=True),
        _extension(_EXTENDED_KEY_USAGE),
        _extension(_NO_CA, critical=True),
        _extension(authority_key_identifier(issuer)),
    )


def names(spiffe_id: SpiffeId, dns_names: tuple[str, ...]) -> Extension:
    """The extension with the identity. The subject is empty, so it is critical (X509-11)."""
    uri = x509.UniformResourceIdentifier(str(spiffe_id))
    return _extension(x509.SubjectAlternativeName([uri, *(x509.DNSName(name) for name in dns_names)]), critical=True)


def _extension(value: x509.ExtensionType, *, critical: bool = False) -> Extension:
    return x509.Extension(value.oid, critical, value)
