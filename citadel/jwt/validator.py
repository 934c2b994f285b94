"""Who the end user of a request is, by the tokens in it.

Source: Istio's RequestAuthentication, RFC 7519, 8725 and 9068. Decision 0032 says where this differs from Istio.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Protocol

from citadel.claims import DEFAULT_LEEWAY, audiences, check_times, text
from citadel.clock import Clock
from citadel.errors import Reason, Unauthenticated
from citadel.jws import Jws
from citadel.jwt.jwks import IssuerKey
from citadel.jwt.places import Place
from citadel.jwt.settings import SPACE_DELIMITED, JwtRule, check_together
from citadel.jwt.user import EndUser
from citadel.printable import printable
from citadel.request import HttpRequest

# RFC 8725 section 3.11, RFC 9068: with the same keys issuers sign other things, such as logout tokens.
_TYPES: Final = (None, "jwt", "at+jwt", "application/jwt", "application/at+jwt")
_MOST_TRIED: Final = 8  # keys for one token that names none
_SHOWN_LETTERS: Final = 80  # of audiences: both sides fit into what a caller is told


class IssuerKeys(Protocol):
    """The keys of one issuer."""

    async def under(self, key_id: str) -> Sequence[IssuerKey]:
        """Those that a token with this `kid` may be signed with, all of them where it is empty.

        Raises `Unavailable` (`jwks_unavailable`) where the issuer's keys were never had.
        """
        ...


class KeyRing(Protocol):
    """Whose keys are to be had."""

    def of(self, rule: JwtRule) -> IssuerKeys:
        """The keys of the rule's issuer, the same ones for rules that fetch alike."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """A place where a token stood, and the rule by which it was believed."""

    place: Place
    rule: JwtRule


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """The end user of a request, by one token; `found` names every place where a token of theirs stood."""

    user: EndUser
    rule: JwtRule
    found: tuple[Found, ...]
    token: Jws = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Judge:
    """A rule, and what is the same for each of its tokens."""

    rule: JwtRule
    keys: IssuerKeys
    audiences: frozenset[str]
    space_delimited: tuple[str, ...]


class EndUserValidator:
    """Checks tokens by the rules of one policy."""

    def __init__(
        self, rules: Sequence[JwtRule], *, keys: KeyRing, clock: Clock, leeway: timedelta = DEFAULT_LEEWAY
    ) -> None:
        """Raises `ValueError` for rules that contradict each other."""
        check_together(rules)
        self._clock = clock
        self._leeway = leeway
        self._judges: dict[Place, dict[str, _Judge]] = {}
        for rule in rules:
            delimited = tuple(dict.fromkeys((*SPACE_DELIMITED, *rule.spaceDelimitedClaims)))
            judge = _Judge(rule, keys.of(rule), frozenset(rule.audiences), delimited)
            for place in rule.places:
                self._judges.setdefault(place, {})[rule.issuer] = judge

    async def check(self, request: HttpRequest) -> Verified | None:
        """The end user of `request`; None where it has no token, and for a CORS preflight.

        Every token must be good: what follows might read any of them. Several pass if all name one user; the first one
        counts then, by the order of the rules' places, and nothing is taken from the others.

        Raises `Unauthenticated` with what is wrong with a token, and `Unavailable` (`jwks_unavailable`).
        """
        for place in self._judges:
            if place.is_misspelled_in(request):  # a preflight too: no proxy would take it out
                raise Unauthenticated(Reason.JWT_MALFORMED, f"{place} stands there in another spelling")
        if is_preflight(request):
            return None
        first: Verified | None = None
        found: list[Found] = []
        for place, token in self._tokens(request):
            verified = await self._verify(place, token)
            found.append(verified.found[0])
            if first is None:
                first = verified
            elif first.user.principal is None or first.user.principal != verified.user.principal:
                raise Unauthenticated(Reason.JWT_MALFORMED, "the request has tokens of different users")
        if first is None or len(found) == 1:
            return first
        return Verified(user=first.user, rule=first.rule, found=tuple(found), token=first.token)

    def _tokens(self, request: HttpRequest) -> Iterator[tuple[Place, str]]:
        for place in self._judges:
            values = place.values(request)
            if len(values) > 1:
                raise Unauthenticated(Reason.JWT_MALFORMED, f"{place} stands there more than once, or holds several")
            for token in values:
                yield place, token

    async def _verify(self, place: Place, token: str) -> Verified:
        """Nothing is fetched and no key is used before all is checked that needs none."""
        jws = Jws.read(token)
        if (jws.token_type and jws.token_type.lower()) not in _TYPES:
            message = f"the token's typ {jws.token_type!r:.50} is neither JWT nor at+jwt"
            raise Unauthenticated(Reason.JWT_HEADER_REFUSED, message)
        issuer = text(jws.claims, "iss")
        judge = self._judges[place].get(issuer or "")
        if judge is None:
            raise Unauthenticated(Reason.JWT_ISSUER_UNKNOWN, f"no rule takes tokens of {issuer!r:.200} from {place}")
        user = self._user(jws, judge)
        await _check_signature(jws, judge.keys)
        return Verified(user=user, rule=judge.rule, found=(Found(place, judge.rule),), token=jws)

    def _user(self, jws: Jws, judge: _Judge) -> EndUser:
        claims = jws.claims
        expires_at = check_times(claims, now=self._clock.now(), leeway=self._leeway)
        meant_for = audiences(claims)
        if judge.audiences and judge.audiences.isdisjoint(meant_for):
            raise Unauthenticated(Reason.JWT_AUDIENCE_MISMATCH, _mismatch(meant_for, judge.rule.audiences))
        return EndUser(
            issuer=judge.rule.issuer,
            subject=text(claims, "sub") or "",
            audiences=meant_for,
            presenter=text(claims, "azp") or "",
            expires_at=expires_at,
            claims=_split(claims, judge.space_delimited),
        )


def _mismatch(meant_for: Sequence[str], accepted: Sequence[str]) -> str:
    """The caller reads this too: what a program's tokens are for is no secret, every user of it has it in theirs."""
    given = f"for {printable(', '.join(meant_for), _SHOWN_LETTERS)}" if meant_for else "for nobody, it has no aud"
    return f"the token is {given}; accepted is one for {printable(' or '.join(accepted), _SHOWN_LETTERS)}"


def is_preflight(request: HttpRequest) -> bool:
    """Whether a browser asks by this what a page of another origin may ask; it sends no token with that."""
    return (
        request.method == "OPTIONS"
        and bool(request.headers.get("origin"))
        and bool(request.headers.get("access-control-request-method"))
    )


async def _check_signature(jws: Jws, keys: IssuerKeys) -> None:
    candidates = await keys.under(jws.key_id)
    if not candidates:
        raise Unauthenticated(Reason.JWT_KEY_UNKNOWN, f"the issuer has no key {jws.key_id!r:.50}")
    fitting = [each for each in candidates if each.fits(jws)]
    if not fitting:
        raise Unauthenticated(Reason.JWT_ALGORITHM_REFUSED, f"the issuer's key is not one for {jws.algorithm}")
    for each in fitting[:_MOST_TRIED]:
        if jws.is_signed_by(each.key):
            return
    raise Unauthenticated(Reason.JWT_BAD_SIGNATURE, "the token's signature is wrong")


def _split(claims: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, Any]:
    """The claims, with those lists that are written as one text (RFC 8693 section 4.2) as lists."""
    texts = {name: found.split() for name in names if isinstance(found := claims.get(name), str)}
    return {**claims, **texts} if texts else claims
