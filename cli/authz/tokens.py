"""A token that somebody wants explained: put where its policy looks for one, and checked by the agent's own rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import BinaryIO, Final
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric import ec

from citadel.access.rules import Policy
from citadel.errors import Reason, Unauthenticated, Unavailable
from citadel.jws import MAX_TOKEN_BYTES, Jws, sign
from citadel.jwt.fetching import HttpKeyFetcher
from citadel.jwt.jwks import IssuerKey, KeySet
from citadel.jwt.keys import FetchKeys, InlineKeys, KeySource
from citadel.jwt.places import DEFAULT_PLACES, Place
from citadel.jwt.settings import JwtRule
from citadel.jwt.validator import IssuerKeys, KeyRing
from citadel.request import HttpRequest

_KEY_ID: Final = "unverified"


class FetchedOnce:
    """Fulfils `citadel.jwt.validator.KeyRing` for one call: an issuer is asked when a token of it is there."""

    def __init__(self, *, fetch: FetchKeys) -> None:
        self._fetch = fetch

    def of(self, rule: JwtRule) -> IssuerKeys:
        return InlineKeys(rule.jwks) if rule.jwks is not None else _Fetched(KeySource.of(rule), self._fetch)


class GivenKeys:
    """Fulfils `citadel.jwt.validator.KeyRing` with the same keys for every issuer."""

    def __init__(self, keys: KeySet) -> None:
        self._keys = keys

    def of(self, rule: JwtRule) -> IssuerKeys:  # noqa: ARG002 - whichever it is
        return InlineKeys(self._keys)


class _Fetched:
    def __init__(self, source: KeySource, fetch: FetchKeys) -> None:
        self._source = source
        self._fetch = fetch

    async def under(self, key_id: str) -> Sequence[IssuerKey]:
        try:
            return (await self._fetch(self._source)).keys.under(key_id)
        except Unavailable as error:
            if error.reason is not Reason.JWKS_UNAVAILABLE:
                raise
            fix = "give the issuer's keys with --jwks FILE, or take the token as it is with --unverified"
            raise Unavailable(error.reason, error.message, fix=fix) from error


def issuers_keys() -> KeyRing:
    """From the issuers themselves, as the agent gets them."""
    return FetchedOnce(fetch=HttpKeyFetcher())


def read_token(file: BinaryIO) -> str:
    """What `file` holds. Raises `Unauthenticated` (`jwt_malformed`) where nobody would take it for a token."""
    text = file.read(2 * MAX_TOKEN_BYTES).decode("utf-8", errors="replace").strip()
    if "." not in text or any(letter.isspace() for letter in text):
        raise Unauthenticated(
            Reason.JWT_MALFORMED,
            f"{file.name} holds no token",
            fix="write the token into it and nothing else: three parts with dots between, without Bearer",
        )
    return text


def vouched_for(token: str) -> tuple[str, KeyRing]:
    """The token signed anew, and the key for it: everything of it is checked but who signed it.

    Raises `Unauthenticated` for what is not one signed token.
    """
    jws = Jws.read(token)
    key = ec.generate_private_key(ec.SECP256R1())
    signed = sign(jws.claims, key=key, key_id=_KEY_ID, token_type=jws.token_type or "")
    return signed, GivenKeys(KeySet((IssuerKey(key.public_key(), _KEY_ID),)))


def with_token(request: HttpRequest, token: str, policy: Policy) -> HttpRequest:
    """The request with the token in the first place where the policy looks for tokens of its issuer."""
    return _put(request, token, _place_for(token, policy))


def _place_for(token: str, policy: Policy) -> Place:
    try:
        issuer = Jws.read(token).claims.get("iss")
    except Unauthenticated:
        issuer = None  # the validator says what is wrong with it, wherever it stands
    rules = [rule for rule in policy.jwt_rules if rule.issuer == issuer] or list(policy.jwt_rules)
    return rules[0].places[0] if rules else DEFAULT_PLACES[0]


def _put(request: HttpRequest, token: str, place: Place) -> HttpRequest:
    if place.kind == "query":
        mark = "&" if "?" in request.path else "?"
        return replace(request, path=f"{request.path}{mark}{quote(place.name)}={quote(token)}")
    if place.kind == "header":
        return replace(request, headers={**request.headers, place.name: f"{place.prefix}{token}"})
    return replace(request, headers=_with_cookie(request.headers, f"{place.name}={token}"))


def _with_cookie(headers: Mapping[str, str], cookie: str) -> Mapping[str, str]:
    others = headers.get("cookie", "")
    return {**headers, "cookie": f"{others}; {cookie}" if others else cookie}
