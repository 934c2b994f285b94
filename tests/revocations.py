"""Revocation lists of every good and bad kind, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from citadel._wire import types_pb2
from citadel.revocation import RevocationList, RevocationSet
from tests.certificates import Signed


def signed_list(
    authority: Signed,
    *revoked: int,
    begins: datetime | None = None,
    lapses: datetime | None = None,
    name: x509.Name | None = None,
    key: Any = None,
    extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> x509.CertificateRevocationList:
    """The list of an authority, dated by its life, unless something is to be wrong."""
    begins = begins or authority.certificate.not_valid_before_utc
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=name or authority.certificate.subject,
        last_update=begins,
        next_update=lapses or authority.certificate.not_valid_after_utc,
        # Adding them one by one copies all of them each time.
        revoked_certificates=[
            x509.RevokedCertificateBuilder(serial_number=serial, revocation_date=begins).build() for serial in revoked
        ],
    )
    for extension, critical in extra:
        builder = builder.add_extension(extension, critical)
    return builder.sign(key or authority.key, hashes.SHA256())


def revocation_list(authority: Signed, *revoked: int) -> RevocationList:
    """What an authority revoked, by serial number."""
    return RevocationList.of(authority.certificate, signed_list(authority, *revoked))


def revocation_set(*authorities: Signed, revoked: Sequence[int] = ()) -> RevocationSet:
    """A list of each authority, of which the last one revoked something."""
    *others, last = authorities
    return RevocationSet((*map(revocation_list, others), revocation_list(last, *revoked)))


def set_message(revocations: RevocationSet) -> types_pb2.RevocationSet:
    """A set as it goes over the wire."""
    return types_pb2.RevocationSet(lists=[list_message(each.issuer, each.crl) for each in revocations.lists])


def list_message(issuer: x509.Certificate, crl: x509.CertificateRevocationList) -> types_pb2.RevocationList:
    """A list as it goes over the wire, good or bad."""
    return types_pb2.RevocationList(issuer=issuer.public_bytes(Encoding.DER), crl=crl.public_bytes(Encoding.DER))
