"""An issuer's keys, as it publishes them: a JSON Web Key Set (RFC 7517 section 5).

One key that cannot be used takes nothing from the others. A document with which it would be open which key was meant is
refused as a whole, as in trust bundles (BUNDLE-23).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from citadel.errors import InvalidArgument, Reason
from citadel.jwk import JwtKey, holds_private_half, key_from_jwk
from citadel.jws import ALGORITHMS, Jws
from citadel.possession import is_usual_rsa
from citadel.printable import printable
from citadel.strict_json import load_object

MAX_DOCUMENT_BYTES: Final = 1 << 20
_MOST_KEYS: Final = 100  # issuers publish a handful; each costs time to parse


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """A public key, under the id and for the algorithm that its issuer gave it; each is empty where it gave none."""

    key: JwtKey
    key_id: str = ""
    algorithm: str = ""

    def fits(self, token: Jws) -> bool:
        """Whether the issuer may have signed `token` with it."""
        return self.algorithm in ("", token.algorithm) and token.fits(self.key)


@dataclass(frozen=True, slots=True)
class KeySet:
    """All keys of an issuer that can be used. `skipped` says of each other one why not."""

    keys: tuple[IssuerKey, ...]
    skipped: tuple[str, ...] = ()
    _by_id: Mapping[str, tuple[IssuerKey, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ids = {key.key_id for key in self.keys}
        by_id = {key_id: tuple(key for key in self.keys if key.key_id == key_id) for key_id in ids}
        object.__setattr__(self, "_by_id", by_id)

    @classmethod
    def parse(cls, document: bytes) -> Self:
        """Raises `InvalidArgument` (`jwks_malformed`) for what is no key set, or has no key that can be used."""
        return cls.of(load_object(document, max_bytes=MAX_DOCUMENT_BYTES, reason=Reason.JWKS_MALFORMED))

    @classmethod
    def of(cls, document: Mapping[str, object]) -> Self:
        """As `parse`, of a document that was read already."""
        elements = document.get("keys")
        if not isinstance(elements, list):
            raise _malformed("`keys` is missing or not an array")
        if len(elements) > _MOST_KEYS:
            raise _malformed(f"there are {len(elements)} keys, more than {_MOST_KEYS}")
        keys, skipped = [], []
        for position, element in enumerate(elements):
            try:
                keys.append(_key(element))
            except InvalidArgument as error:
                skipped.append(printable(f"element {position}: {error.message}", 200))
        if not keys:
            raise _malformed("; ".join(["no key can be used", *skipped[:5]]))
        _refuse_ambiguous(keys)
        return cls(tuple(keys), tuple(skipped))

    def under(self, key_id: str) -> tuple[IssuerKey, ...]:
        """The keys that a token with this `kid` may be signed with; without one, all.

        Where no key has the id, those without any: their issuer says nothing of ids.
        """
        if not key_id:
            return self.keys
        return self._by_id.get(key_id) or self._by_id.get("", ())


def holds_private_key(document: Mapping[str, object]) -> bool:
    """Whether a set shows what must never leave its issuer, as happens where the wrong file was copied."""
    elements = document.get("keys")
    members = [each for each in elements if isinstance(each, dict)] if isinstance(elements, list) else []
    return any(map(holds_private_half, members))


def _key(element: object) -> IssuerKey:
    if not isinstance(element, dict):
        raise _malformed("not a JSON object")
    for name in ("kid", "alg", "use"):
        if not isinstance(element.get(name, ""), str):
            raise _malformed(f"{name} is not text")
    use, algorithm, operations = element.get("use", "sig"), element.get("alg", ""), element.get("key_ops", ["verify"])
    if use != "sig":
        raise _malformed(f"use {use[:20]!r} is not sig")
    if not isinstance(operations, list) or "verify" not in operations:
        raise _malformed("key_ops do not name verify")
    if algorithm and algorithm not in ALGORITHMS:
        raise _malformed(f"the algorithm {algorithm[:20]!r} is not accepted")
    key = key_from_jwk(element)
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise _malformed("an Ed25519 key is not accepted")
    if isinstance(key, rsa.RSAPublicKey) and not is_usual_rsa(key):
        raise _malformed(f"an RSA key of {key.key_size} bits, or its exponent, is too short or too long")
    return IssuerKey(key, element.get("kid", ""), algorithm)


def _refuse_ambiguous(keys: Iterable[IssuerKey]) -> None:
    """RFC 7517 section 4.5: keys under one id are alternatives if they are of different kinds, as `alg` tells then."""
    seen: dict[tuple[str, str], JwtKey] = {}
    for each in keys:
        kind = "RSA" if isinstance(each.key, rsa.RSAPublicKey) else each.key.curve.name
        if each.key_id and seen.setdefault((each.key_id, kind), each.key) != each.key:
            raise _malformed(f"two different keys have the key id {printable(each.key_id, 50)!r}")


def _malformed(message: str) -> InvalidArgument:
    return InvalidArgument(Reason.JWKS_MALFORMED, message)
