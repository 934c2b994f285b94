"""The one profile of a leaf: X509-SVID to the letter (X509-01 to X509-06, X509-11, X509-13, X509-17 to X509-27)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from ca.authority.certificates import authority_key_identifier
from ca.issuance.csr import WorkloadPublicKey
from ca.issuance.lifetime import Validity
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
_EMPTY: Final = x509.Name([])


class LeafSigner:
    """Builds and signs leaves under one issuing authority; what every leaf shares is made once."""

    def __init__(self, *, issuer: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._issuer_name = issuer.subject
        self._key = key
        self._authority_key_identifier = authority_key_identifier(issuer)

    def sign(
        self,
        *,
        spiffe_id: SpiffeId,
        dns_names: Sequence[str],
        public_key: WorkloadPublicKey,
        validity: Validity,
        serial: int,
    ) -> x509.Certificate:
        """A leaf for `spiffe_id`. The subject is empty, so the names are critical (X509-11)."""
        names = x509.SubjectAlternativeName(
            [x509.UniformResourceIdentifier(str(spiffe_id)), *(x509.DNSName(name) for name in dns_names)]
        )
        builder = x509.CertificateBuilder(
            issuer_name=self._issuer_name,
            subject_name=_EMPTY,
            public_key=public_key,
            serial_number=serial,
            not_valid_before=validity.not_before,
            not_valid_after=validity.not_after,
            extensions=[
                x509.Extension(x509.KeyUsage.oid, critical=True, value=_KEY_USAGE),
                x509.Extension(x509.ExtendedKeyUsage.oid, critical=False, value=_EXTENDED_KEY_USAGE),
                x509.Extension(x509.BasicConstraints.oid, critical=True, value=_NO_CA),
                x509.Extension(
                    x509.SubjectKeyIdentifier.oid,
                    critical=False,
                    value=x509.SubjectKeyIdentifier.from_public_key(public_key),
                ),
                x509.Extension(x509.AuthorityKeyIdentifier.oid, critical=False, value=self._authority_key_identifier),
                x509.Extension(x509.SubjectAlternativeName.oid, critical=True, value=names),
            ],
        )
        return builder.sign(self._key, hashes.SHA256())
