"""Secrets of gateways as people make them, good and bad."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from tests.certificates import NOW, Signed, leaf, root

CA = root("gateways' CA", uri=None)


def served(host: str = "web.example.org", *, issuer: Signed = CA, **changes: Any) -> Signed:
    """The certificate of a gateway."""
    return leaf(issuer, dns=(host,), **changes)


def fresh(host: str = "web.example.org", *, name: str = "live CA") -> tuple[Signed, Signed]:
    """A certificate that is valid by the machine's clock, and its authority."""
    span = {"not_before": datetime.now(UTC) - timedelta(hours=1), "not_after": datetime.now(UTC) + timedelta(hours=9)}
    authority = root(name, uri=None, **span)
    return leaf(authority, dns=(host,), **span), authority


def key_pem(signed: Signed, *, password: bytes = b"") -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return signed.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def chain_pem(*chain: Signed) -> bytes:
    return b"".join(each.pem for each in chain)


def tls(signed: Signed, *chain: Signed, **more: bytes) -> dict[str, bytes]:
    """As `kubectl create secret tls` makes it."""
    return {"tls.crt": chain_pem(signed, *chain), "tls.key": key_pem(signed), **more}


def crl(
    issuer: Signed,
    *revoked: Signed,
    now: datetime = NOW,
    days: int = 1,
    names_key: bool = False,
    **times: datetime,
) -> bytes:
    """What `issuer` revoked, in PEM; it can name the key that signed it."""
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=issuer.certificate.subject,
        last_update=times.get("begins", now - timedelta(minutes=1)),
        next_update=times.get("ends", now + timedelta(days=days)),
    )
    for each in revoked:
        gone = x509.RevokedCertificateBuilder(each.certificate.serial_number, now - timedelta(minutes=2)).build()
        builder = builder.add_revoked_certificate(gone)
    if names_key:
        named = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
        builder = builder.add_extension(named, critical=False)
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def secret(name: str, data: Mapping[str, bytes], **fields: Any) -> dict[str, Any]:
    """The object in Kubernetes."""
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": encoded, **fields}


def without(data: Mapping[str, bytes], keys: Sequence[str]) -> dict[str, bytes]:
    return {key: value for key, value in data.items() if key not in keys}
