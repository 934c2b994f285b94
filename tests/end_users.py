"""An issuer of end users' tokens, for tests: its keys, its tokens, and arguments that break a rule each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from cryptography.hazmat.primitives.asymmetric import ec

from citadel.jwk import jwk_from_key
from citadel.jwt.jwks import KeySet
from citadel.jwt.keys import InlineKeys
from citadel.jwt.settings import JwtRule
from citadel.jwt.validator import IssuerKeys
from citadel.request import HttpRequest
from tests.certificates import NOW
from tests.tokens import LEFT_OUT, PrivateKey, token

ISSUER: Final = "https://issuer.test"
AUDIENCE: Final = "bookinfo"
SECONDS: Final = int(NOW.timestamp())
CLAIMS: Final[Mapping[str, Any]] = {"iss": ISSUER, "sub": "jason", "aud": AUDIENCE, "exp": SECONDS + 300}


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
        jwk = {**jwk_from_key(self.key.public_key()), "use": "sig", "kid": self.key_id or LEFT_OUT, **members}
        return {name: value for name, value in jwk.items() if value is not LEFT_OUT}

    def token(self, **changes: Any) -> str:
        """A good token of `jason` for `bookinfo`, but for these claims and what else `tests.tokens.token` takes."""
        return token(self.key, **{"kid": self.key_id or LEFT_OUT, **CLAIMS, **changes})


def jwks(*keys: SigningKey | Mapping[str, Any]) -> dict[str, Any]:
    """A key set of these."""
    return {"keys": [each.jwk() if isinstance(each, SigningKey) else dict(each) for each in keys]}


def jwks_bytes(*keys: SigningKey | Mapping[str, Any]) -> bytes:
    """The same as a document."""
    return json.dumps(jwks(*keys)).encode()


def rule(*keys: SigningKey, **fields: Any) -> JwtRule:
    """A rule for `ISSUER` that takes tokens signed by these keys."""
    return JwtRule.model_validate({"issuer": ISSUER, "jwks": jwks(*keys), **fields})


def request(headers: Mapping[str, str] | None = None, **fields: Any) -> HttpRequest:
    """A plain GET, but for these headers and fields."""
    return HttpRequest(**{"method": "GET", "host": "web.test", "path": "/", **fields}, headers=headers or {})


def bearer(text: str) -> HttpRequest:
    """A plain GET with this token."""
    return request({"authorization": f"Bearer {text}"})


class InlineRing:
    """Fulfils `citadel.jwt.validator.KeyRing` with what stands in the rules."""

    def of(self, rule: JwtRule) -> IssuerKeys:
        assert isinstance(rule.jwks, KeySet)
        return InlineKeys(rule.jwks)
