"""Revocation lists of one trust domain, and what they say of an SVID.

Source: RFC 5280 section 5. Only freshness is not that of the standard: lists come by push, at once, and are dated by
the life of their issuer, so that the age of a list can never be what refuses a handshake.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from citadel.bundle import TrustBundle
from citadel.certification_path import UNREADABLE, extension_of
from citadel.errors import InvalidArgument, Reason
from citadel.svid import X509Svid

_VERSION_DIGITS: Final = 16


@dataclass(frozen=True)
class RevocationList:
    """What one authority revoked. The constructors check that the authority signed it; use `from_der`.

    Its encodings are made once, when they are first asked for: of a long list that takes a while.
    """

    issuer: x509.Certificate
    crl: x509.CertificateRevocationList
    issuer_key_id: bytes

    @classmethod
    def from_der(cls, issuer: bytes, crl: bytes) -> Self:
        """Parse an authority's certificate and its list. Raises `InvalidArgument` (`revocations_malformed`)."""
        try:
            return cls.of(x509.load_der_x509_certificate(issuer), x509.load_der_x509_crl(crl))
        except UNREADABLE as error:
            raise _malformed(f"a revocation list cannot be read: {error}") from error

    @classmethod
    def of(cls, issuer: x509.Certificate, crl: x509.CertificateRevocationList) -> Self:
        """The list of this authority. Raises as `from_der`."""
        key_id = extension_of(issuer, x509.SubjectKeyIdentifier)
        if key_id is None:
            raise _malformed("a revocation list comes with an issuer that has no key identifier")
        if crl.issuer != issuer.subject or not crl.is_signature_valid(issuer.public_key()):  # type: ignore[arg-type]  # other kinds of keys are refused as invalid
            raise _malformed(f"a revocation list was not signed by {issuer.subject.rfc4514_string()}")
        return cls(issuer, crl, key_id.digest)

    @property
    def is_of_root(self) -> bool:
        """Whether the authority is self-signed."""
        return self.issuer.subject == self.issuer.issuer

    @cached_property
    def der(self) -> bytes:
        """The list in DER."""
        return self.crl.public_bytes(Encoding.DER)

    @cached_property
    def pem(self) -> bytes:
        """The list in PEM."""
        return self.crl.public_bytes(Encoding.PEM)


@dataclass(frozen=True, slots=True)
class RevocationSet:
    """The lists of one trust domain, of roots and of those that sign leaves. Sets that say the same have one version.

    Without any list nothing is checked against it: a verifier that checks refuses every issuer that it has no list of.
    """

    lists: tuple[RevocationList, ...] = ()
    version: str = field(init=False, default="")
    _revoked: frozenset[tuple[bytes, int]] = field(init=False, default=frozenset(), repr=False, compare=False)

    def __post_init__(self) -> None:
        lists = tuple(sorted(self.lists, key=lambda each: each.issuer_key_id))
        digest = hashlib.sha256()
        for each in lists:
            digest.update(each.crl.tbs_certlist_bytes)  # a list that was signed again says nothing new
        object.__setattr__(self, "lists", lists)
        object.__setattr__(self, "version", digest.hexdigest()[:_VERSION_DIGITS] if lists else "")
        revoked = frozenset((each.issuer_key_id, entry.serial_number) for each in lists for entry in each.crl)
        object.__setattr__(self, "_revoked", revoked)

    def holds(self, svid: X509Svid) -> bool:
        """Whether this SVID is revoked."""
        # Mostly nothing is, and finding out who signed each of a thousand SVIDs takes longer than all else.
        return bool(self._revoked) and self.hold(svid.issuer_key_id, svid.leaf.serial_number)

    def hold(self, issuer_key_id: bytes, serial: int) -> bool:
        """Whether the certificate with this serial of this authority is revoked."""
        return (issuer_key_id, serial) in self._revoked

    def covers_roots_of(self, bundle: TrustBundle) -> bool:
        """Whether there is a list of every root, which a verifier of whole chains asks for."""
        covered = {each.issuer for each in self.lists}
        return all(root in covered for root in bundle.x509_authorities)

    def of_leaf_issuers(self) -> Iterable[RevocationList]:
        """The lists of those that sign leaves."""
        return (each for each in self.lists if not each.is_of_root)


NO_REVOCATIONS: Final = RevocationSet()


def to_pem(lists: Iterable[RevocationList]) -> bytes:
    """Lists as concatenated PEM."""
    return b"".join(each.pem for each in lists)


def _malformed(message: str) -> InvalidArgument:
    return InvalidArgument(Reason.REVOCATIONS_MALFORMED, message)
