"""Public keys as JSON Web Keys (RFC 7517, 7518, 8037): the members that name the key, and nothing else.

PyJWT converts; what is here keeps private members out, and unneeded ones such as `key_ops` (BUNDLE-15, JWT-29).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from citadel.errors import InvalidArgument, Reason

JwtKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
PublicKey = JwtKey | ed25519.Ed25519PublicKey

# RFC 7518 sections 6.2.1 and 6.3.1, RFC 8037 section 2.
_MEMBERS: Final[Mapping[str, tuple[str, ...]]] = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_FROM_JWK: Final[Mapping[str, Callable[[dict[str, Any]], object]]] = {
    "RSA": RSAAlgorithm.from_jwk,
    "EC": ECAlgorithm.from_jwk,
    "OKP": OKPAlgorithm.from_jwk,
}


def jwk_from_key(key: object) -> dict[str, str]:
    """The public JWK of `key`: `kty` and the members that RFC 7518 demands for it.

    Raises `InvalidArgument` (`bundle_malformed`) for anything but a public RSA, P-256, P-384, P-521 or Ed25519 key.
    """
    match key:
        case rsa.RSAPublicKey():
            jwk = RSAAlgorithm.to_jwk(key, as_dict=True)
        case ec.EllipticCurvePublicKey() if _is_known(key.curve):
            jwk = ECAlgorithm.to_jwk(key, as_dict=True)
        case ed25519.Ed25519PublicKey():
            jwk = OKPAlgorithm.to_jwk(key, as_dict=True)
        case _:
            raise _malformed(f"a {type(key).__name__} cannot stand in a bundle; RSA, EC and Ed25519 public keys can")
    return {member: jwk[member] for member in ("kty", *_MEMBERS[jwk["kty"]])}


def key_from_jwk(jwk: Mapping[str, object]) -> PublicKey:
    """The public key that `jwk` names; members that do not name it are ignored.

    Raises `InvalidArgument` (`bundle_malformed`) for an unknown `kty` or curve, a member that is missing or of the
    wrong type, values that are no key, and a JWK that holds its private half.
    """
    kty = jwk.get("kty")
    if not isinstance(kty, str) or kty not in _MEMBERS:
        raise _malformed(f"kty {_shown(kty)} is not one of {', '.join(_MEMBERS)}")
    if holds_private_half(jwk):
        raise _malformed("the JWK holds private members")
    members = {"kty": kty}
    for name in _MEMBERS[kty]:
        value = jwk.get(name)
        if not isinstance(value, str):
            raise _malformed(f"member {name!r} of the {kty} key is missing or not a string")
        members[name] = value
    try:
        key = _FROM_JWK[kty](members)
    except (jwt.InvalidKeyError, ValueError, UnsupportedAlgorithm) as error:
        raise _malformed(f"the {kty} members are no public key: {error}") from error
    if not isinstance(key, PublicKey) or (isinstance(key, ec.EllipticCurvePublicKey) and not _is_known(key.curve)):
        raise _malformed(f"the curve {_shown(jwk.get('crv'))} is not one that a bundle may hold")
    return key


def holds_private_half(jwk: Mapping[str, object]) -> bool:
    """Whether whoever can read it can sign with it, as happens where the wrong file was copied."""
    return not _PRIVATE_MEMBERS.isdisjoint(jwk)


def _is_known(curve: ec.EllipticCurve) -> bool:
    return isinstance(curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1)


def _shown(value: object) -> str:
    return repr(value)[:50]


def _malformed(message: str) -> InvalidArgument:
    return InvalidArgument(Reason.BUNDLE_MALFORMED, message)
