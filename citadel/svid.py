"""X.509-SVIDs: certificates that carry a SPIFFE ID, and how one is believed. JWT-SVIDs are offered here too.

Source: X509-SVID.md (the lines X509-* of the conformance checklist) and RFC 5280 section 6, which OpenSSL carries out:
cryptography's own verifier refuses every chain with URI name constraints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from citadel.bundle import TrustBundle
from citadel.certification_path import UNREADABLE, Anchors, NoPathError, extension_of, find_path, weakness_of
from citadel.errors import InvalidArgument, Reason, Unauthenticated
from citadel.jwt_svid import JwtSvid, verify_jwt_svid
from citadel.serial import serial_hex
from citadel.spiffe import SpiffeId, TrustDomain

__all__ = ["MAX_CHAIN_LENGTH", "JwtSvid", "SvidVerifier", "X509Svid", "verify_jwt_svid", "verify_x509_svid"]

MAX_CHAIN_LENGTH: Final = 16  # bounds the work that a stranger's chain can cause


@dataclass(frozen=True, slots=True)
class X509Svid:
    """An X.509-SVID, leaf first, then its intermediates: well-formed, which says nothing of whether it is trusted."""

    spiffe_id: SpiffeId
    chain: tuple[x509.Certificate, ...]

    @classmethod
    def from_der(cls, chain_der: Sequence[bytes]) -> Self:
        """Parse a chain of DER certificates, leaf first, and apply the rules for leaves (X509-03, 04, 30 to 34).

        Raises `InvalidArgument` (`svid_malformed`), naming the rule.
        """
        if len(chain_der) > MAX_CHAIN_LENGTH:
            raise _malformed(f"the chain has {len(chain_der)} certificates, more than {MAX_CHAIN_LENGTH}")
        try:
            return cls._from_chain([x509.load_der_x509_certificate(der) for der in chain_der])
        except UNREADABLE as error:
            raise _malformed(f"the chain holds a certificate that cannot be read: {error}") from error

    @classmethod
    def from_pem(cls, data: bytes) -> Self:
        """Parse concatenated PEM certificates, as `from_der`."""
        try:
            chain = x509.load_pem_x509_certificates(data)
        except UNREADABLE as error:
            raise _malformed(f"the chain is not PEM certificates: {error}") from error
        return cls.from_der([certificate.public_bytes(Encoding.DER) for certificate in chain])

    @classmethod
    def _from_chain(cls, chain: Sequence[x509.Certificate]) -> Self:
        if not chain:
            raise _malformed("the chain is empty")
        leaf = chain[0]
        _refuse_signing_certificate(leaf)
        _ = leaf.not_valid_before_utc, leaf.not_valid_after_utc  # read now, so that the properties cannot fail later
        return cls(_spiffe_id_of(leaf), tuple(chain))

    @property
    def leaf(self) -> x509.Certificate:
        """The certificate that carries the identity."""
        return self.chain[0]

    @property
    def not_before(self) -> datetime:
        """When the leaf begins to be valid, in UTC."""
        return self.leaf.not_valid_before_utc

    @property
    def not_after(self) -> datetime:
        """When the leaf ends, in UTC."""
        return self.leaf.not_valid_after_utc

    @property
    def serial(self) -> str:
        """The leaf's serial number in lowercase hex, whole bytes: as Envoy's `%DOWNSTREAM_PEER_SERIAL%` prints it."""
        return serial_hex(self.leaf.serial_number)

    @property
    def issuer_key_id(self) -> bytes:
        """The key identifier of the authority that signed the leaf; empty where the leaf does not say it."""
        named = extension_of(self.leaf, x509.AuthorityKeyIdentifier)
        return (named.key_identifier or b"") if named is not None else b""

    @property
    def chain_der(self) -> tuple[bytes, ...]:
        """The chain in DER, leaf first."""
        return tuple(certificate.public_bytes(Encoding.DER) for certificate in self.chain)

    @property
    def chain_pem(self) -> bytes:
        """The chain as concatenated PEM, leaf first."""
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in self.chain)


def verify_x509_svid(chain_der: Sequence[bytes], bundles: Mapping[TrustDomain, TrustBundle], now: datetime) -> X509Svid:
    """Believe an X.509-SVID, or refuse it.

    The trust anchors are those of the leaf's own trust domain and no others (X509-36, ID-26, invariant 7). Every
    authority of its bundle is one, self-signed or not. The leaf's extended key usage is not judged: X509-SVID.md
    section 5.2 does not.

    Args:
        chain_der: The leaf's DER, then those of the intermediates; a root among them counts for nothing.
        bundles: What is trusted, by trust domain.
        now: The aware moment at which the whole path must be valid, whole seconds.

    Raises:
        InvalidArgument: `svid_malformed`: it is no X.509-SVID, whoever signed it. `request_malformed`: `now` is naive.
        Unauthenticated: `svid_untrusted`: its path breaks a rule of RFC 5280 section 6, or is too weak.
    """
    svid = _parsed(chain_der, now)
    bundle = bundles.get(svid.spiffe_id.trust_domain)
    if bundle is None or bundle.trust_domain != svid.spiffe_id.trust_domain:
        raise _without_bundle(svid)
    return _believed(svid, bundle.x509_authorities, now)


class SvidVerifier:
    """Believes X.509-SVIDs as `verify_x509_svid` does, by one bundle whose authorities are made ready once."""

    def __init__(self, bundle: TrustBundle) -> None:
        """Raises `citadel.certification_path.NoPathError` for authorities that OpenSSL cannot read."""
        self._trust_domain = bundle.trust_domain
        self._anchors = Anchors(bundle.x509_authorities)

    def verify(self, chain_der: Sequence[bytes], now: datetime) -> X509Svid:
        """Raises as `verify_x509_svid` does."""
        svid = _parsed(chain_der, now)
        if svid.spiffe_id.trust_domain != self._trust_domain:
            raise _without_bundle(svid)
        return _believed(svid, self._anchors, now)


def _parsed(chain_der: Sequence[bytes], now: datetime) -> X509Svid:
    if now.utcoffset() is None:
        raise InvalidArgument(Reason.REQUEST_MALFORMED, f"the moment {now} has no time zone")
    return X509Svid.from_der(chain_der)


def _believed(svid: X509Svid, anchors: Anchors | Sequence[x509.Certificate], now: datetime) -> X509Svid:
    path = _validated_path(svid, anchors, now)
    for depth, certificate in enumerate(path):
        weakness = weakness_of(certificate, is_anchor=depth == len(path) - 1)
        if weakness:
            raise _untrusted(svid, f"{_place(depth)} {weakness}")
    return svid


def _validated_path(
    svid: X509Svid, anchors: Anchors | Sequence[x509.Certificate], now: datetime
) -> list[x509.Certificate]:
    """The path from the leaf to a trust anchor, both included.

    The leaf is never an anchor, because a bundle holds only CA certificates and a leaf is none.
    """
    leaf, *intermediates = svid.chain
    try:
        return find_path(leaf, intermediates, anchors, now=now)
    except NoPathError as error:
        where = "" if error.depth is None else f"{_place(error.depth)}: "
        raise _untrusted(svid, where + error.why) from error


def _refuse_signing_certificate(leaf: x509.Certificate) -> None:
    constraints = extension_of(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise _malformed("the leaf is a CA certificate (cA TRUE)")  # X509-30
    usage = extension_of(leaf, x509.KeyUsage)
    if usage is not None and usage.key_cert_sign:
        raise _malformed("the leaf's key usage has keyCertSign")  # X509-31
    if usage is not None and usage.crl_sign:
        raise _malformed("the leaf's key usage has cRLSign")  # X509-32


def _spiffe_id_of(leaf: x509.Certificate) -> SpiffeId:
    names = extension_of(leaf, x509.SubjectAlternativeName)
    uris = [] if names is None else names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise _malformed(f"the leaf has {len(uris)} URI SANs, not one")  # X509-03, X509-04
    try:
        spiffe_id = SpiffeId.parse(uris[0])
    except InvalidArgument as error:
        raise _malformed(f"the leaf's URI SAN is no SPIFFE ID: {error.message}") from error  # X509-04, X509-33
    if not spiffe_id.path:
        raise _malformed(f"the leaf's SPIFFE ID {spiffe_id} has no path")  # X509-34
    return spiffe_id


def _place(depth: int) -> str:
    return "the leaf" if depth == 0 else f"certificate {depth} above the leaf"


def _malformed(message: str) -> InvalidArgument:
    return InvalidArgument(Reason.SVID_MALFORMED, message)


def _without_bundle(svid: X509Svid) -> Unauthenticated:
    return _untrusted(svid, f"there is no bundle for trust domain {svid.spiffe_id.trust_domain}")


def _untrusted(svid: X509Svid, why: str) -> Unauthenticated:
    return Unauthenticated(Reason.SVID_UNTRUSTED, f"the X509-SVID of {svid.spiffe_id} is not trusted: {why}")
