"""End users of the requests that one policy judges, and what a proxy changes in a request of theirs.

A user sends the same token many times. What was believed once is remembered, by a digest of all that it was read from:
for as long as the token is valid, and only while its issuer's keys are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from citadel.clock import Clock
from citadel.jwt.forwarding import changes
from citadel.jwt.settings import JwtRule
from citadel.jwt.user import EndUser
from citadel.jwt.validator import EndUserValidator, KeyRing, Verified, is_preflight
from citadel.request import HttpRequest
from sds.authz import answers

_MOST_REMEMBERED: Final = 4096
_LONGEST_REMEMBERED: Final = 4096  # characters that tokens are read from, so that all of them together stay small
_NEVER: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Known:
    """Who the end user is, None where there is none; and the `CheckResponse` that lets their request through.

    Each is equal to itself alone, so only of one that comes again (`is_remembered`) anything else can be remembered.
    """

    user: EndUser | None
    passing: Any
    since: datetime
    until: datetime
    keys_version: int
    is_remembered: bool


class EndUsers:
    """Fulfils what the service asks of a policy's `jwtRules`. Lives on one event loop."""

    def __init__(
        self,
        rules: Sequence[JwtRule],
        *,
        keys: KeyRing,
        keys_version: Callable[[], int],
        clock: Clock,
        leeway: timedelta,
    ) -> None:
        """`keys_version` is another one whenever any issuer's keys may be others."""
        self._rules = tuple(rules)
        self._validator = EndUserValidator(rules, keys=keys, clock=clock, leeway=leeway)
        self._keys_version = keys_version
        self._clock = clock
        self._leeway = leeway
        places = {place for rule in rules for place in rule.places}
        self._headers = sorted(
            {"cookie" if place.kind == "cookie" else place.name for place in places if place.kind != "query"}
        )
        self._parameters = sorted({place for place in places if place.kind == "query"}, key=str)
        self._remembered: dict[bytes, Known] = {}

    async def of(self, request: HttpRequest) -> Known:
        """The end user of `request`. Raises as `EndUserValidator.check`."""
        asks_more = "?" in request.path and any(place.is_misspelled_in(request) for place in self._parameters)
        # The first two are judged by more than where their tokens stand.
        if asks_more or is_preflight(request) or self._length(request) > _LONGEST_REMEMBERED:
            return await self._found_out(request, is_remembered=False)
        read, now, version = self._read(request), self._clock.now(), self._keys_version()
        known = self._remembered.get(read)
        if known is None or not known.since <= now < known.until or known.keys_version != version:
            known = await self._found_out(request, is_remembered=True)
            self._remember(read, known)
        return known

    async def _found_out(self, request: HttpRequest, *, is_remembered: bool) -> Known:
        now, version = self._clock.now(), self._keys_version()  # before anything is waited for
        verified = await self._validator.check(request)
        return Known(
            user=verified.user if verified is not None else None,
            passing=answers.allowed(changes(self._rules, request, verified)),
            since=now,
            until=self._until(verified, now),
            keys_version=version,
            is_remembered=is_remembered,
        )

    def _length(self, request: HttpRequest) -> int:
        """How much there is to remember: claims, and cookies beside a token."""
        query = len(request.path) if "?" in request.path and self._parameters else 0
        return query + sum(len(request.headers.get(name, "")) for name in self._headers)

    def _read(self, request: HttpRequest) -> bytes:
        """A digest of everything that tokens are read from: tokens themselves are not kept."""
        digest = hashlib.sha256()
        for name in self._headers:
            _add(digest, request.headers.get(name))
        if "?" in request.path:
            for place in self._parameters:
                for value in place.values(request):
                    _add(digest, value)
                _add(digest, None)
        return digest.digest()

    def _until(self, verified: Verified | None, now: datetime) -> datetime:
        if verified is None:
            return _NEVER
        if len(verified.found) > 1:  # each has an end of its own
            return now
        return min(verified.user.expires_at, _NEVER - self._leeway) + self._leeway

    def _remember(self, read: bytes, known: Known) -> None:
        if len(self._remembered) >= _MOST_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[read] = known


def _add(digest: hashlib._Hash, value: str | None) -> None:
    """In a form that can be read in one way only."""
    if value is None:
        digest.update(b"-")
    else:
        written = value.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(written))
        digest.update(written)
