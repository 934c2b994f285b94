"""From a certificate to an authority that is trusted (RFC 5280 section 6), and what is too weak on the way.

OpenSSL walks the path: cryptography's own verifier refuses every chain with URI name constraints.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.bindings.openssl.binding import Binding
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from OpenSSL import crypto

# What cryptography raises for what it cannot make sense of; it reads most fields only when asked. LookupError: for a
# number that it has no name for, such as a TLS feature.
UNREADABLE: Final = (
    ValueError,
    TypeError,
    LookupError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)

# 112 bits of security, OpenSSL's security level 2 (NIST SP 800-57 part 1, table 2).
_MIN_RSA_BITS: Final = 2048
_MIN_EC_BITS: Final = 224
_WEAK_HASHES: Final = (hashes.MD5, hashes.SHA1)

_UNREADABLE_PATH: Final = "OpenSSL cannot read the chain or its authorities"

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


class NoPathError(Exception):
    """No trusted authority is reached. `depth` is where it ends, 0 for the certificate itself; None if unreadable."""

    def __init__(self, depth: int | None, why: str) -> None:
        super().__init__(why)
        self.depth = depth
        self.why = why


@contextmanager
def openssl_forgets() -> Iterator[None]:
    """PyOpenSSL leaves in the thread's list of errors what went wrong in a chain, even text that is no UTF-8.

    `cryptography` reads that list at the next thing that fails in the same thread, whoever's it is, and panics.
    """
    try:
        yield
    finally:
        Binding.lib.ERR_clear_error()


class Anchors:
    """Authorities at which a path may end, read by OpenSSL once for many paths."""

    def __init__(self, authorities: Iterable[x509.Certificate]) -> None:
        """Raises `NoPathError`."""
        try:
            with openssl_forgets():
                self._authorities = [crypto.X509.from_cryptography(each) for each in authorities]
        except crypto.Error as error:
            raise NoPathError(None, _UNREADABLE_PATH) from error

    def store(self, now: datetime) -> crypto.X509Store:
        """For one path: of a store that has a moment, OpenSSL never changes it."""
        flags, store = crypto.X509StoreFlags, crypto.X509Store()
        for each in self._authorities:
            store.add_cert(each)
        # PARTIAL_CHAIN: an authority is an anchor even when not self-signed (RFC 5280 section 6.1.1 (d)). POLICY_CHECK:
        # section 6.1.3 (d).
        store.set_flags(flags.PARTIAL_CHAIN | flags.POLICY_CHECK)
        store.set_time(now.astimezone(UTC))  # pyOpenSSL reads the fields of a datetime as UTC, whatever its zone
        return store


def find_path(
    leaf: x509.Certificate,
    others: Iterable[x509.Certificate],
    anchors: Anchors | Iterable[x509.Certificate],
    *,
    now: datetime,
) -> list[x509.Certificate]:
    """The path from `leaf` through some of `others` to one of `anchors`, both ends included.

    An anchor need not be self-signed. Raises `NoPathError`.
    """
    ready = anchors if isinstance(anchors, Anchors) else Anchors(anchors)
    try:
        with openssl_forgets():
            untrusted = [crypto.X509.from_cryptography(other) for other in others]
            context = crypto.X509StoreContext(ready.store(now), crypto.X509.from_cryptography(leaf), untrusted)
            found = context.get_verified_chain()
    except crypto.X509StoreContextError as error:
        _, depth, why = error.errors
        raise NoPathError(depth, why) from error
    except crypto.Error as error:
        raise NoPathError(None, _UNREADABLE_PATH) from error
    return [certificate.to_cryptography() for certificate in found]


def weakness_of(certificate: x509.Certificate, *, is_anchor: bool) -> str:
    """What makes the certificate too weak to rely on, such as `has an RSA key of only 1024 bits`; empty if nothing."""
    # OpenSSL would judge this by its security level, which pyOpenSSL does not let us set for a store.
    try:
        match certificate.public_key():
            case rsa.RSAPublicKey() as key if key.key_size < _MIN_RSA_BITS:
                return f"has an RSA key of only {key.key_size} bits"
            case ec.EllipticCurvePublicKey() as key if key.key_size < _MIN_EC_BITS:
                return f"has an EC key of only {key.key_size} bits"
        # Nobody relies on the signature of an anchor.
        if not is_anchor and isinstance(certificate.signature_hash_algorithm, _WEAK_HASHES):
            return f"is signed with {certificate.signature_hash_algorithm.name}"
    except UNREADABLE as error:
        return f"cannot be read: {error}"
    return ""


def extension_of(
    one: x509.Certificate | x509.CertificateRevocationList | x509.RevokedCertificate, kind: type[_Extension]
) -> _Extension | None:
    """Its extension of this kind, if it has one. Raises one of `UNREADABLE` where they are malformed."""
    try:
        return one.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
