"""What keeps revocation lists from being given to an Envoy (pure).

What checking them costs is bounded, whatever somebody has put into a secret: it stands between all others and theirs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from ca.kubernetes.gateways.checks import RSA_BITS, Chain, NotYetError, UnusableError
from citadel.certification_path import UNREADABLE, extension_of
from citadel.possession import MOST_RSA_EXPONENT

Lists: TypeAlias = tuple[x509.CertificateRevocationList, ...]

MOST_LIST_BYTES: Final = 512 * 1024
MOST_LISTS: Final = 64
_MOST_NAMESAKES: Final = 4  # authorities of one name, and of one name and key, that are tried for a list
_BEGINS: Final = b"-----BEGIN X509 CRL-----"
_ENDS: Final = b"-----END X509 CRL-----"


def lists_of(pem: bytes, authorities: Chain, now: datetime) -> Lists:
    """Revocation lists, each by one of the `authorities`; none where there is nothing. Raises `UnusableError`."""
    if len(pem) > MOST_LIST_BYTES:
        raise UnusableError(f"has {len(pem)} bytes, and lists have at most {MOST_LIST_BYTES}")
    if (number := pem.count(_BEGINS)) > MOST_LISTS:
        raise UnusableError(f"has {number} lists, and at most {MOST_LISTS} are taken")
    found = list(_cut(pem))
    if pem.strip() and not 0 < len(found) == number:
        raise UnusableError("is not revocation lists in PEM")
    try:
        signers = _Signers(authorities if found else ())
    except UNREADABLE:
        raise UnusableError("is of authorities that cannot be read") from None
    return tuple(_list_of(each, signers, now) for each in found)


def _cut(pem: bytes) -> Iterator[bytes]:
    """Each from its first line to its last, in one pass: a pattern would look to the end from each beginning anew."""
    end = 0
    while (begin := pem.find(_BEGINS, end)) >= 0 and (last := pem.find(_ENDS, begin)) >= 0:
        end = last + len(_ENDS)
        yield pem[begin:end]


def _list_of(pem: bytes, signers: _Signers, now: datetime) -> x509.CertificateRevocationList:
    try:
        found = x509.load_pem_x509_crl(pem)
        is_signed = any(found.is_signature_valid(key) for key in signers.of(found))  # type: ignore[arg-type]  # it is of a kind that signs
        ends = found.next_update_utc
    except UNREADABLE:
        raise UnusableError("has a list that cannot be read") from None
    if not is_signed:
        raise UnusableError("has a list that none of the authorities signed")
    # Envoy refuses every client by a list that has ended, and by one that has no end.
    if ends is None or ends <= now:
        raise UnusableError(f"has a list that ended {ends:%Y-%m-%dT%H:%M:%SZ}" if ends else "has a list without an end")
    if (begins := found.last_update_utc) > now:
        raise NotYetError(f"has a list that is not valid before {begins:%Y-%m-%dT%H:%M:%SZ}", begins)
    return found


class _Signers:
    """Authorities by their names, and by the identifiers of their keys: a few of each."""

    def __init__(self, authorities: Chain) -> None:
        """Raises one of `UNREADABLE`."""
        self._few: defaultdict[tuple[x509.Name, bytes | None], list[x509.Certificate]] = defaultdict(list)
        for each in authorities:
            named = extension_of(each, x509.SubjectKeyIdentifier)
            for key_id in {None, named.digest if named is not None else None}:
                few = self._few[each.subject, key_id]
                if len(few) < _MOST_NAMESAKES:
                    few.append(each)

    def of(self, found: x509.CertificateRevocationList) -> Iterator[PublicKeyTypes]:
        """The keys of those that may have signed it: first those that it names."""
        named = extension_of(found, x509.AuthorityKeyIdentifier)
        key_ids: Sequence[bytes | None] = [named.key_identifier, None] if named is not None else [None]
        for key_id in key_ids:
            for each in self._few.get((found.issuer, key_id), ()):
                if _is_cheap(key := each.public_key()):
                    yield key


def _is_cheap(key: PublicKeyTypes) -> bool:
    """Whether a signature by it is checked in a moment; Envoy takes no others either."""
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size < RSA_BITS.stop and key.public_numbers().e <= MOST_RSA_EXPONENT
    return isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey)
