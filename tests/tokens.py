"""Tokens of every good and bad kind, for tests: JWT-SVIDs as SPIFFE asks, and arguments that break a rule each."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import get_algorithm_by_name

from citadel.jwk import JwtKey
from citadel.jws import algorithm_for
from tests.certificates import NOW, WORKLOAD

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Sign = Callable[[bytes], bytes]

AUDIENCE: Final = "spiffe://a.test/server"


class _LeftOut:
    def __repr__(self) -> str:
        return "left out"


LEFT_OUT: Final = _LeftOut()  # as the value of a member: the token has none such
_SECONDS: Final = int(NOW.timestamp())
CLAIMS: Final[Mapping[str, Any]] = {"sub": WORKLOAD, "aud": AUDIENCE, "exp": _SECONDS + 300, "iat": _SECONDS}


def b64(data: bytes) -> str:
    """Base64url as RFC 7515 has it."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def raw_token(header: bytes, payload: bytes, sign: Sign) -> str:
    """The three parts of any bytes, signed as they stand."""
    signed = f"{b64(header)}.{b64(payload)}"
    return f"{signed}.{b64(sign(signed.encode('ascii')))}"


def signer(key: PrivateKey, algorithm: str | None = None) -> Sign:
    """Signs by PyJWT's algorithm of this name, or the one that fits the key, without a look at whether it fits."""
    name = algorithm or algorithm_for(key.public_key())
    return lambda data: get_algorithm_by_name(name).sign(data, key)


def hmac_of_public(key: JwtKey) -> Sign:
    """HS256 with the public key for a secret: what a checker falls for that lets the token choose the algorithm."""
    secret = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return lambda data: hmac.digest(secret, data, hashlib.sha256)


def token(
    key: PrivateKey,
    *,
    header: Mapping[str, Any] | None = None,
    payload: bytes | None = None,
    sign: Sign | None = None,
    kid: object = "k1",
    **claims: Any,
) -> str:
    """A JWT-SVID of `WORKLOAD` for `AUDIENCE`, with these claims and members of its header changed or `LEFT_OUT`."""
    head = {"alg": algorithm_for(key.public_key()), "kid": kid, "typ": "JWT", **(header or {})}
    body = payload if payload is not None else _json({**CLAIMS, **claims})
    return raw_token(_json(head), body, sign or signer(key))


def _json(members: Mapping[str, Any]) -> bytes:
    return json.dumps({name: value for name, value in members.items() if value is not LEFT_OUT}).encode("ascii")
