"""What keeps certificates, keys and authorities from being given to an Envoy (pure).

Envoy acknowledges some of it and breaks then: it is to be found here (invariant 9). Texts never repeat what they are
about.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from citadel.certificate_chain import read_chain
from citadel.certification_path import UNREADABLE, extension_of
from citadel.errors import InvalidArgument

Chain: TypeAlias = tuple[x509.Certificate, ...]
Key: TypeAlias = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

MOST_CHAIN_BYTES: Final = 64 * 1024
MOST_KEY_BYTES: Final = 16 * 1024
MOST_AUTHORITY_BYTES: Final = 512 * 1024  # all that browsers trust takes less than half of it
MOST_IN_CHAIN: Final = 10
# What Envoy loads and serves with, as was tried.
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
RSA_BITS: Final = range(2048, 8192 + 1)
_PROBE: Final = b"whether a key fits a certificate"


class UnusableError(Exception):
    """What is wrong with it, as words behind its name: `has ended`."""


class NotYetError(UnusableError):
    """What is wrong with it until `begins`, and then may be right by itself."""

    def __init__(self, words: str, begins: datetime) -> None:
        super().__init__(words)
        self.begins = begins


def chain_of(pem: bytes, now: datetime) -> Chain:
    """A certificate, and what issued it, in order. Raises `UnusableError`."""
    chain = _certificates(pem, most=MOST_CHAIN_BYTES)
    if len(chain) > MOST_IN_CHAIN:
        raise UnusableError(f"has {len(chain)} certificates, and a chain has at most {MOST_IN_CHAIN}")
    try:
        if fault := _key_fault(chain[0].public_key()):
            raise UnusableError(fault)
        if extension_of(chain[0], x509.TLSFeature) is not None:
            raise UnusableError("must be served with an OCSP response, which Envoy does not get by SDS")
    except UNREADABLE:
        raise UnusableError("has a certificate that cannot be read") from None
    for number, (child, issuer) in enumerate(pairwise(chain), start=2):
        if not _vouches(issuer, child):
            raise UnusableError(f"is out of order: certificate {number} did not issue the one before it")
    for number, each in enumerate(chain, start=1):
        if fault := _time_fault(each, now):
            words = fault if number == 1 else f"has a certificate {number} that {fault}"
            raise untimely(words, [each.not_valid_before_utc], now)
    return chain


def key_of(pem: bytes, certificate: x509.Certificate) -> Key:
    """The private key, which is that of `certificate`. Raises `UnusableError`."""
    if len(pem) > MOST_KEY_BYTES:
        raise UnusableError(f"has {len(pem)} bytes, and a key has at most {MOST_KEY_BYTES}")
    try:
        # RSA's own check takes long; what signs for the certificate's key is the certificate's key.
        key = load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=True)
    except TypeError:
        raise UnusableError("is encrypted, and nobody could open it") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UnusableError("is not one whole private key in PEM") from None
    if not isinstance(key, Key) or not _fits(key, certificate):
        raise UnusableError("does not fit the certificate")
    return key


def authorities_of(pem: bytes, now: datetime) -> Chain:
    """What vouches for clients; some of it may have ended, not all. Raises `UnusableError`."""
    authorities = _certificates(pem, most=MOST_AUTHORITY_BYTES)
    for number, each in enumerate(authorities, start=1):
        if not _is_authority(each):
            raise UnusableError(f"has a certificate {number} that is not one of an authority")
    faults = [_time_fault(each, now) for each in authorities]
    if all(faults):
        raise untimely(faults[0], [each.not_valid_before_utc for each in authorities], now)
    return authorities


def untimely(words: str, begin: Sequence[datetime], now: datetime) -> UnusableError:
    """For what is not of this time; `begin` are the moments at which it may be, some of them past."""
    later = [each for each in begin if each > now]
    return NotYetError(words, min(later)) if later else UnusableError(words)


def _certificates(pem: bytes, *, most: int) -> Chain:
    if len(pem) > most:
        raise UnusableError(f"has {len(pem)} bytes, and at most {most} are taken")
    try:
        return read_chain(pem)
    except InvalidArgument as error:
        raise UnusableError(f"cannot be read: {error.message}") from None


def _time_fault(certificate: x509.Certificate, now: datetime) -> str:
    if certificate.not_valid_after_utc <= now:
        return f"has expired: it ended {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
    if certificate.not_valid_before_utc > now:
        return f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}"
    return ""


def _key_fault(key: PublicKeyTypes) -> str:
    match key:
        case rsa.RSAPublicKey() if key.key_size not in RSA_BITS:
            return f"has an RSA key of {key.key_size} bits, and Envoy takes {RSA_BITS.start} to {RSA_BITS.stop - 1}"
        case ec.EllipticCurvePublicKey() if not isinstance(key.curve, _CURVES):
            return f"has a key on the curve {key.curve.name}, and Envoy takes P-256, P-384 and P-521"
        case rsa.RSAPublicKey() | ec.EllipticCurvePublicKey() | ed25519.Ed25519PublicKey():
            return ""
        case _:
            return f"has a key of type {type(key).__name__}, and Envoy takes EC, RSA and Ed25519"


def _vouches(issuer: x509.Certificate, child: x509.Certificate) -> bool:
    try:
        child.verify_directly_issued_by(issuer)
    except (InvalidSignature, *UNREADABLE):
        return False
    return _is_authority(issuer)


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        constraints = extension_of(certificate, x509.BasicConstraints)
        usage = extension_of(certificate, x509.KeyUsage)
    except UNREADABLE:
        return False
    return constraints is not None and constraints.ca and (usage is None or usage.key_cert_sign)


def _fits(key: Key, certificate: x509.Certificate) -> bool:
    public = certificate.public_key()
    try:
        if isinstance(key, rsa.RSAPrivateKey) and isinstance(public, rsa.RSAPublicKey):
            if key.key_size != public.key_size:  # whose size was checked: a large one signs for seconds
                return False
            signed = key.sign(_PROBE, padding.PKCS1v15(), hashes.SHA256())
            public.verify(signed, _PROBE, padding.PKCS1v15(), hashes.SHA256())
            return True
        if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(public, ec.EllipticCurvePublicKey):
            public.verify(key.sign(_PROBE, ec.ECDSA(hashes.SHA256())), _PROBE, ec.ECDSA(hashes.SHA256()))
            return True
        if isinstance(key, ed25519.Ed25519PrivateKey) and isinstance(public, ed25519.Ed25519PublicKey):
            public.verify(key.sign(_PROBE), _PROBE)
            return True
    except (InvalidSignature, ValueError):
        pass
    return False
