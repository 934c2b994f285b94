"""Which keys the key manager makes."""

from __future__ import annotations

from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric import ec, rsa

JwtPrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class KeyKind(StrEnum):
    """Kinds of keys for tokens; certificates are signed by EC P-256 alone."""

    EC_P256 = "ec-p256"
    RSA_2048 = "rsa-2048"  # some validators know RS256 and nothing else
