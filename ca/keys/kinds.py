"""Which keys the key manager makes."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, TypeAlias

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from citadel.errors import FailedPrecondition, Reason

AuthorityKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
AuthorityPublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
JwtPrivateKey: TypeAlias = AuthorityKey

_STRONGER_FROM: Final = 256  # bits of a curve


class KeyKind(StrEnum):
    """Kinds of keys that are made for authorities and for tokens."""

    EC_P256 = "ec-p256"
    EC_P384 = "ec-p384"
    RSA_2048 = "rsa-2048"  # some validators of tokens know RS256 and nothing else
    RSA_4096 = "rsa-4096"


def hash_for(key: AuthorityKey | AuthorityPublicKey) -> hashes.SHA256 | hashes.SHA384:
    """What this key, or the private half of it, signs is hashed with: as strong as the key (RFC 5480 section 4)."""
    is_elliptic = isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey)
    return hashes.SHA384() if is_elliptic and key.key_size > _STRONGER_FROM else hashes.SHA256()


def elliptic(key: AuthorityPublicKey, key_id: str) -> ec.EllipticCurvePublicKey:
    """The key, where nothing but ECDSA is known. Raises `FailedPrecondition` (`key_unsealable`)."""
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise FailedPrecondition(Reason.KEY_UNSEALABLE, f"key {key_id} is not an elliptic-curve key")
    return key
