"""One of the `jwtRules` of a policy: an issuer, where its tokens stand, and what of them is passed on.

The fields and their names are those of `JWTRule` in Istio's RequestAuthentication. `caFile` and `allowPrivateAddresses`
are ours, since here the keys are fetched by the agent on each node.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Final, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from citadel.config.types import Duration, Settings
from citadel.errors import InvalidArgument, Reason
from citadel.jwt.jwks import MAX_DOCUMENT_BYTES, KeySet, holds_private_key
from citadel.jwt.places import DEFAULT_PLACES, Place
from citadel.strict_json import load_object

T = TypeVar("T")

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_PARAMETER: Final = re.compile(r"[A-Za-z0-9._~-]+")  # RFC 3986 section 2.3: what nobody escapes
# What decides where a request goes, how its end is found, how it is understood, or whom others believe it is from.
_NEVER_WRITTEN: Final = frozenset(
    {
        *("authorization", "cookie", "host", "via", "forwarded", "origin", "referer"),
        *("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect"),
        *("range", "x-method-override", "x-request-id", "x-real-ip"),
    }
)
_NEVER_WRITTEN_UNDER: Final = (
    *("proxy-", "sec-", "access-control-", "content-", "accept", "if-", "grpc-", "ssl-client-"),
    *("x-forwarded", "x-envoy-", "x-original-", "x-rewrite-", "x-http-method", "x-ssl-", "x-client-cert"),
)
# To many programs x_user and x-user are one header, so a stranger's x-user would stand for ours.
_OUTPUT: Final = re.compile(r"[a-z0-9-]+")
_NO_PLACE_FOR_TOKENS: Final = frozenset({"cookie", "host"})
_LONGEST_TIMEOUT: Final = timedelta(seconds=60)
SPACE_DELIMITED: Final = ("scope", "permission")  # in Istio too, whether they are named or not


def _header_name(value: str) -> str:
    if _TOKEN.fullmatch(value) is None:
        raise ValueError("not the name of a header")
    return value.lower()


def _output_header(value: str) -> str:
    if _OUTPUT.fullmatch(value) is None:
        raise ValueError("a header that is written has letters, digits and '-' only: others are mistaken for these")
    if value in _NEVER_WRITTEN or value.startswith(_NEVER_WRITTEN_UNDER):
        raise ValueError("a header that others rely on is not written from a token; take one of your own")
    return value


def _parameter_name(value: str) -> str:
    if _PARAMETER.fullmatch(value) is None:
        raise ValueError("a parameter that proxies can take out has letters, digits, '-', '.', '_' and '~' only")
    return value


def _input_header(value: str) -> str:
    if value in _NO_PLACE_FOR_TOKENS:
        raise ValueError("no token is looked for in this header; cookies are named in fromCookies")
    return value


def _cookie_name(value: str) -> str:
    if _TOKEN.fullmatch(value) is None:
        raise ValueError("not the name of a cookie")
    return value


def _key_set(value: object) -> KeySet | None:
    """From a mapping in YAML, or the text of a JSON document."""
    if value is None or isinstance(value, KeySet):
        return value
    try:
        document: dict[str, Any] = (
            value
            if isinstance(value, dict)
            else load_object(str(value).encode(), max_bytes=MAX_DOCUMENT_BYTES, reason=Reason.JWKS_MALFORMED)
        )
        if holds_private_key(document):
            raise ValueError("it holds a private key, which whoever reads this file could sign with")
        return KeySet.of(document)
    except InvalidArgument as error:
        raise ValueError(error.message) from error


Text = Annotated[str, Field(min_length=1, max_length=2048)]
OutputHeader = Annotated[str, AfterValidator(_header_name), AfterValidator(_output_header)]
InputHeader = Annotated[str, AfterValidator(_header_name), AfterValidator(_input_header)]
ParameterName = Annotated[Text, AfterValidator(_parameter_name)]
CookieName = Annotated[str, AfterValidator(_cookie_name)]
InlineKeys = Annotated[KeySet | None, BeforeValidator(_key_set)]


class TokenHeader(Settings):
    """A header in which tokens are looked for, after a prefix such as `Bearer`."""

    name: InputHeader
    prefix: str = ""


class ClaimHeader(Settings):
    """A header that says what a claim says; `.` goes down into objects."""

    header: OutputHeader
    claim: Text


class JwtRule(Settings):
    """An issuer of end users' tokens. Keys: `jwks`, or from `jwksUri`, or by OIDC discovery at `issuer`."""

    issuer: Text
    audiences: tuple[Text, ...] = ()
    jwks: InlineKeys = Field(default=None, repr=False)  # so that no message repeats it: it may hold a private key
    jwksUri: Text | None = None
    fromHeaders: tuple[TokenHeader, ...] = ()
    fromParams: tuple[ParameterName, ...] = ()
    fromCookies: tuple[CookieName, ...] = ()
    forwardOriginalToken: bool = False
    outputPayloadToHeader: OutputHeader | None = None
    outputClaimToHeaders: tuple[ClaimHeader, ...] = ()
    timeout: Duration = timedelta(seconds=5)
    spaceDelimitedClaims: tuple[Text, ...] = ()
    allowPrivateAddresses: bool = False
    caFile: Path | None = None

    @property
    def places(self) -> tuple[Place, ...]:
        """Where this issuer's tokens are looked for, in this order."""
        named = (
            *(Place("header", each.name, each.prefix) for each in self.fromHeaders),
            *(Place("query", name) for name in self.fromParams),
            *(Place("cookie", name) for name in self.fromCookies),
        )
        return tuple(dict.fromkeys(named)) or DEFAULT_PLACES

    @property
    def output_headers(self) -> tuple[str, ...]:
        """Every header that this rule may write, and nobody else."""
        payload = (self.outputPayloadToHeader,) if self.outputPayloadToHeader is not None else ()
        return (*payload, *(each.header for each in self.outputClaimToHeaders))

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if not self.issuer.isprintable():
            raise ValueError("issuer holds characters that cannot be seen")
        if not timedelta(0) < self.timeout <= _LONGEST_TIMEOUT:
            raise ValueError(f"timeout must be above 0s, and {_LONGEST_TIMEOUT.seconds}s at most")
        self._check_keys()
        if (written := _twice(self.output_headers)) is not None:
            raise ValueError(f"the header {written} is written twice")
        return self

    def _check_keys(self) -> None:
        if self.jwks is not None:
            if self.jwksUri is not None:
                raise ValueError("jwks and jwksUri exclude each other")
            return
        named, url = ("jwksUri", self.jwksUri) if self.jwksUri is not None else ("issuer", self.issuer)
        parts = urlsplit(url)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            advice = "" if self.jwksUri is not None else "; name jwks or jwksUri, or an issuer that is one"
            raise ValueError(f"{named} is not an https URL{advice}")
        if parts.scheme == "http" and not self.allowPrivateAddresses:
            raise ValueError(
                f"{named} begins with http://, so anybody on the way could exchange the keys; "
                "take https, or set allowPrivateAddresses where the network is yours"
            )
        if parts.username is not None or parts.fragment or not url.isprintable() or " " in url:
            raise ValueError(f"{named} holds a user, a fragment or a space, which an address of keys has not")


def check_together(rules: Sequence[JwtRule]) -> None:
    """Raise `ValueError` where two rules of one policy contradict each other.

    Two rules may name one issuer with different places, not with the same: which one judges a token would be open.
    """
    if (shared := _twice((rule.issuer, place) for rule in rules for place in rule.places)) is not None:
        raise ValueError(f"two rules look for tokens of {shared[0]} in {shared[1]}")
    places = list(dict.fromkeys(place for rule in rules for place in rule.places))
    confused = next((pair for pair in combinations(places, 2) if pair[0].is_confused_with(pair[1])), None)
    if confused is not None:
        one, other = (f"{each}{f' after {each.prefix!r}' if each.kind == 'header' else ''}" for each in confused)
        raise ValueError(f"a token would be looked for twice, in {one} and in {other}")
    # A name of one issuer is a stranger's with another; who reads the header could not tell.
    outputs = [header for rule in rules for header in rule.output_headers]
    if (written := _twice(outputs)) is not None:
        raise ValueError(f"two rules write the header {written}")
    inputs = {place.name for rule in rules for place in rule.places if place.kind == "header"}
    if both := inputs.intersection(outputs):
        raise ValueError(f"the header {min(both)} is written, and looked into for tokens")


def _twice(things: Iterable[T]) -> T | None:
    return next((thing for thing, count in Counter(things).items() if count > 1), None)
