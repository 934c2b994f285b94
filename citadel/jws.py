"""Signed tokens in JWS compact form, read strictly: what two readers could take differently is refused.

Source: RFC 7515, RFC 7518, RFC 8725, and the lines JWT-01 to 09 of the conformance checklist. PyJWT does signatures.
Nothing that a token says of its own key is ever followed: `jku`, `x5u`, `jwk` and `x5c` are not looked at.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import Algorithm, ECAlgorithm, RSAAlgorithm, RSAPSSAlgorithm

from citadel.errors import CitadelError, InvalidArgument, Reason, Unauthenticated
from citadel.jwk import JwtKey
from citadel.strict_json import load_object

MAX_TOKEN_BYTES: Final = 16 * 1024  # what HTTP servers let pass as a header, and then some
LEAST_RSA_BITS: Final = 2048  # RFC 7518 section 3.3

_SHA256, _SHA384, _SHA512 = RSAAlgorithm.SHA256, RSAAlgorithm.SHA384, RSAAlgorithm.SHA512
# JWT-02: public keys alone, so that no public key can be taken for an HMAC secret (JWT-04).
_ALGORITHMS: Final[Mapping[str, Algorithm]] = {
    "RS256": RSAAlgorithm(_SHA256),
    "RS384": RSAAlgorithm(_SHA384),
    "RS512": RSAAlgorithm(_SHA512),
    "PS256": RSAPSSAlgorithm(_SHA256),
    "PS384": RSAPSSAlgorithm(_SHA384),
    "PS512": RSAPSSAlgorithm(_SHA512),
    "ES256": ECAlgorithm(_SHA256, ec.SECP256R1),
    "ES384": ECAlgorithm(_SHA384, ec.SECP384R1),
    "ES512": ECAlgorithm(_SHA512, ec.SECP521R1),
}
ALGORITHMS: Final = frozenset(_ALGORITHMS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Jws:
    """A token that was read, which says nothing of whether it is to be believed: `check_signature` does.

    `key_id` is empty where the token names none. `claims` hold what JSON holds.
    """

    algorithm: str
    key_id: str
    token_type: str | None
    claims: Mapping[str, Any]
    _signed: bytes = field(repr=False)
    _signature: bytes = field(repr=False)

    @classmethod
    def read(cls, token: str, *, max_bytes: int = MAX_TOKEN_BYTES) -> Self:
        """Read the three parts of `token`.

        Raises `Unauthenticated`: `jwt_malformed` for what is not one compact JWS with a JSON object in it that has one
        meaning, or is longer than `max_bytes`; `jwt_algorithm_refused` for every algorithm that is not in `ALGORITHMS`;
        `jwt_header_refused` for a `crit` or `b64`, which no rule here understands.
        """
        if len(token) > max_bytes:
            raise _malformed(f"the token has {len(token)} characters, more than {max_bytes}")
        parts = token.split(".")
        if len(parts) != 3:
            raise _malformed(f"the token has {len(parts)} parts, not the three of a signed one")
        header = _object(parts[0], "header")
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in _ALGORITHMS:  # JWT-03: before anything else of it is used
            raise Unauthenticated(
                Reason.JWT_ALGORITHM_REFUSED, f"the algorithm {str(algorithm)[:30]!r} is not accepted"
            )
        for name in ("crit", "b64"):  # RFC 7515 section 4.1.11
            if name in header:
                raise Unauthenticated(Reason.JWT_HEADER_REFUSED, f"the token's header has {name!r}")
        return cls(
            algorithm=algorithm,
            key_id=_text(header, "kid") or "",
            token_type=_text(header, "typ"),
            claims=_object(parts[1], "payload"),
            _signed=token[: len(parts[0]) + 1 + len(parts[1])].encode("ascii"),
            _signature=_bytes(parts[2], "signature"),
        )

    @property
    def encoded_payload(self) -> str:
        """The second part of the token, character by character as it came."""
        return self._signed.partition(b".")[2].decode("ascii")

    def fits(self, key: JwtKey) -> bool:
        """Whether this kind of key can have made such a signature (JWT-04)."""
        expected = _ALGORITHMS[self.algorithm]
        if isinstance(key, rsa.RSAPublicKey):
            return isinstance(expected, RSAAlgorithm) and key.key_size >= LEAST_RSA_BITS
        curve = expected.expected_curve if isinstance(expected, ECAlgorithm) else None
        return curve is not None and isinstance(key.curve, curve)

    def is_signed_by(self, key: JwtKey) -> bool:
        """Whether `key` signed the token."""
        return self.fits(key) and _ALGORITHMS[self.algorithm].verify(self._signed, key, self._signature)

    def check_signature(self, key: JwtKey) -> None:
        """Raise `Unauthenticated` (`jwt_algorithm_refused`, `jwt_bad_signature`) unless `key` signed the token."""
        if not self.fits(key):
            raise Unauthenticated(Reason.JWT_ALGORITHM_REFUSED, f"the key is not one for {self.algorithm}")
        if not self.is_signed_by(key):
            raise Unauthenticated(Reason.JWT_BAD_SIGNATURE, "the token's signature is wrong")


def sign(
    claims: Mapping[str, Any],
    *,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    key_id: str,
    token_type: str = "JWT",  # noqa: S107 - no secret
) -> str:
    """A token of `claims` with no header but `alg`, `kid` and `typ` (JWT-08), by the algorithm that fits `key`."""
    headers = {"kid": key_id, "typ": token_type}  # an empty `typ` is left out
    return jwt.encode(dict(claims), key, algorithm=algorithm_for(key.public_key()), headers=headers)


def algorithm_for(key: JwtKey) -> str:
    """What a key of this kind signs by."""
    if isinstance(key, rsa.RSAPublicKey):
        return "RS256"
    return {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}[key.curve.name]


def _object(part: str, name: str) -> dict[str, Any]:
    try:
        return load_object(_bytes(part, name), max_bytes=len(part), reason=Reason.JWT_MALFORMED)
    except InvalidArgument as error:
        raise _malformed(f"the token's {name} cannot be read: {error.message}") from error


def _bytes(part: str, name: str) -> bytes:
    """RFC 7515 section 2: base64url without padding, and without a second way to write the same."""
    try:
        encoded = part.encode("ascii")
        decoded = base64.urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4))
    except (UnicodeEncodeError, binascii.Error) as error:
        raise _malformed(f"the token's {name} is not base64url") from error
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != encoded:
        raise _malformed(f"the token's {name} is not base64url")
    return decoded


def _text(header: Mapping[str, Any], name: str) -> str | None:
    if name not in header:
        return None
    value = header[name]
    if not isinstance(value, str):  # not null either: to some readers it is no text, to others an empty one
        raise _malformed(f"{name} in the token's header is not text")
    return value


def _malformed(message: str) -> CitadelError:
    return Unauthenticated(Reason.JWT_MALFORMED, message)
