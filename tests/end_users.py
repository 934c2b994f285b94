"""An issuer of end users' tokens, for tests: its keys, its tokens, and arguments that break a rule each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from citadel.jwk import jwk_from_key
from citadel.jws import algorithm_for
from citadel.jwt.jwks import KeySet
from citadel.jwt.keys import InlineKeys
from citadel.jwt.settings import JwtRule
from citadel.jwt.validator import IssuerKeys
from tests.certificates import NOW

ISSUER: Final = "https://issuer.test"
AUDIENCE: Final = "bookinfo"
SECONDS: Final = int(NOW.timestamp())
CLAIMS: Final[Mapping[str, Any]] = {"iss": ISSUER, "sub": "jason", "aud": AUDIENCE, "exp": SECONDS + 300}
LEFT_OUT: Final = object()

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class SigningKey:
    """A key of an issuer with its id; an empty one is none."""

    key: PrivateKey
    key_id: str = "k1"

    @classmethod
    def p256(cls, key_id: str = "k1") -> Self:
        return cls(ec.generate_private_key(ec.SECP256R1()), key_id)

    def jwk(self, **members: Any) -> dict[str, Any]:
        """The public half as an element of a JWKS, with these members changed or `LEFT_OUT`."""
        kid = {"kid": self.key_id} if self.key_id else {}
        return present({**jwk_from_key(self.key.public_key()), "use": "sig", **kid, **members})

    def token(self, *, header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """A good token of `jason` for `bookinfo`, with these claims and members of its header changed or `LEFT_OUT`."""
        kid = {"kid": self.key_id} if self.key_id else {}
        headers = present({"typ": "JWT", **kid, **(header or {})})
        headers.setdefault("typ", None)  # PyJWT leaves it out then
        return jwt.encode(
            present({**CLAIMS, **claims}), self.key, algorithm=algorithm_for(self.key.public_key()), headers=headers
        )


def present(members: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is `LEFT_OUT`."""
    return {name: value for name, value in members.items() if value is not LEFT_OUT}


def jwks(*keys: SigningKey | Mapping[str, Any]) -> dict[str, Any]:
    """A key set of these."""
    return {"keys": [each.jwk() if isinstance(each, SigningKey) else dict(each) for each in keys]}


def jwks_bytes(*keys: SigningKey | Mapping[str, Any]) -> bytes:
    """The same as a document."""
    return json.dumps(jwks(*keys)).encode()


def rule(*keys: SigningKey, **fields: Any) -> JwtRule:
    """A rule for `ISSUER` that takes tokens signed by these keys."""
    return JwtRule.model_validate({"issuer": ISSUER, "jwks": jwks(*keys), **fields})


class InlineRing:
    """Fulfils `citadel.jwt.validator.KeyRing` with what stands in the rules."""

    def of(self, rule: JwtRule) -> IssuerKeys:
        assert isinstance(rule.jwks, KeySet)
        return InlineKeys(rule.jwks)
