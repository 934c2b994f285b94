"""The elements of a bundle's `keys`: each is one authority, as a JSON Web Key.

Source: X509-SVID.md section 6, JWT-SVID.md section 6 (the lines X509-37 to 44 and JWT-25 to 29 of the conformance
checklist), RFC 7517.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from citadel.authority_form import unreadable
from citadel.certification_path import UNREADABLE
from citadel.errors import InvalidArgument, Reason
from citadel.jwk import JwtKey, jwk_from_key, key_from_jwk
from citadel.possession import is_usual_rsa
from citadel.printable import printable
from citadel.spiffe import TrustDomain

_log = structlog.get_logger(__name__)

_MOST_ELEMENTS: Final = 10_000  # a hundred clusters of one domain have some hundred


def x509_entry(certificate: x509.Certificate) -> dict[str, object]:
    """The element of a CA certificate: no `kid` (X509-38), and `x5c` with it alone, in standard base64 (X509-39)."""
    der = base64.b64encode(certificate.public_bytes(Encoding.DER)).decode("ascii")
    return {"use": "x509-svid", **jwk_from_key(certificate.public_key()), "x5c": [der]}


def jwt_entry(kid: str, key: JwtKey) -> dict[str, object]:
    """The element of a key that signs JWT-SVIDs."""
    return {"use": "jwt-svid", "kid": kid, **jwk_from_key(key)}


@dataclass(frozen=True, slots=True)
class Skipped:
    """The elements of one document that cannot be used: how many, and what is wrong with the first."""

    count: int
    position: int
    why: str


Tell = Callable[[TrustDomain, Skipped], None]


def tell_in_log(trust_domain: TrustDomain, skipped: Skipped) -> None:
    """One line for a document, however many there are."""
    _log.warning("bundle keys skipped", trust_domain=trust_domain.name, **asdict(skipped))


def usable_keys(
    trust_domain: TrustDomain, elements: Sequence[object], tell: Tell = tell_in_log
) -> tuple[tuple[x509.Certificate, ...], dict[str, JwtKey]]:
    """The X.509 authorities, and the JWT authorities by key id. Elements that cannot be used are skipped and told.

    Raises `InvalidArgument` (`bundle_malformed`) for an element that is no JSON object, for more elements than anybody
    needs, and for two different JWT keys under one id, since which of them was meant cannot be told.
    """
    if len(elements) > _MOST_ELEMENTS:
        raise _malformed(f"`keys` has more than {_MOST_ELEMENTS} elements")
    certificates: list[x509.Certificate] = []
    jwt_keys: list[tuple[str, JwtKey]] = []
    wrong: list[tuple[int, str]] = []
    for position, element in enumerate(elements):
        if not isinstance(element, dict):
            raise _malformed(f"element {position} of `keys` is not a JSON object")
        try:
            match element.get("use"):
                case "x509-svid":
                    certificates.append(_x509_authority(element))
                case "jwt-svid":
                    jwt_keys.append(_jwt_authority(element))
                case _:
                    pass  # BUNDLE-14; a use that is not ours (`wit-svid`) is no news either
        except InvalidArgument as error:
            wrong.append((position, printable(error.message, 200)))
    if wrong:
        tell(trust_domain, Skipped(len(wrong), *wrong[0]))
    return tuple(certificates), _by_kid(jwt_keys)


def _by_kid(jwt_keys: Sequence[tuple[str, JwtKey]]) -> dict[str, JwtKey]:
    by_kid = dict(jwt_keys)
    for kid, key in jwt_keys:
        if by_kid[kid] != key:
            raise _malformed(f"two different JWT keys have the key id {kid!r:.100}")
    return by_kid


def check_x509_authority(certificate: x509.Certificate) -> None:
    """Raise `InvalidArgument` (`bundle_malformed`) unless this is a CA certificate that all can read.

    A leaf among the authorities would be its own trust anchor: for OpenSSL with PARTIAL_CHAIN, and for Envoy. Its key
    must be one that a JWK can name.
    """
    try:
        if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise _malformed("the certificate is not a CA's: its basicConstraints say cA FALSE")  # X509-12
        key = certificate.public_key()
    except x509.ExtensionNotFound as error:
        raise _malformed("the certificate is not a CA's: it has no basicConstraints") from error
    except UNREADABLE as error:
        raise _malformed(f"the certificate cannot be read: {error}") from error
    if problem := unreadable(certificate):
        raise _malformed(f"the certificate is not one for all: {problem}")
    jwk_from_key(key)


def check_jwt_authority(kid: str, key: object) -> JwtKey:
    """Give back `key`; raise `InvalidArgument` (`bundle_malformed`) unless it can verify JWT-SVIDs under this id."""
    if not kid:
        raise _malformed("a JWT key has no key id")  # JWT-26
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise _malformed(
            f"JWT key {kid!r:.100} is neither a public RSA nor a public EC key"
        )  # JWT-02 names no other kind
    if isinstance(key, rsa.RSAPublicKey) and not is_usual_rsa(key):
        # Whoever verifies a token may have to try every key of its domain.
        raise _malformed(f"RSA JWT key {kid!r:.100} of {key.key_size} bits, or its exponent, is too short or too long")
    jwk_from_key(key)
    return key


def _x509_authority(element: Mapping[str, object]) -> x509.Certificate:
    chain = element.get("x5c")
    if not isinstance(chain, list) or not chain or not isinstance(chain[0], str):
        raise _malformed("x5c is missing, empty or not an array of strings")  # X509-42
    try:
        certificate = x509.load_der_x509_certificate(base64.b64decode(chain[0], validate=True))  # X509-43: the first
    except UNREADABLE as error:
        raise _malformed(f"x5c holds no certificate: {error}") from error
    check_x509_authority(certificate)
    if key_from_jwk(element) != certificate.public_key():
        # RFC 7517 section 4.7: they MUST match. Which of the two was meant cannot be told, so neither is believed.
        raise _malformed("the JWK members and the certificate name different keys")
    return certificate


def _jwt_authority(element: Mapping[str, object]) -> tuple[str, JwtKey]:
    kid = element.get("kid")
    if not isinstance(kid, str):
        raise _malformed("a JWT key has no key id")  # JWT-26
    return kid, check_jwt_authority(kid, key_from_jwk(element))


def _malformed(message: str) -> InvalidArgument:
    return InvalidArgument(Reason.BUNDLE_MALFORMED, message)
