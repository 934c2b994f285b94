"""The keys of an issuer as they are held, and when they are fetched anew: rules alone, which know no network.

An issuer that cannot be reached costs freshness, not service: its last keys stay until there are newer ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import inf
from pathlib import Path
from typing import Final, Protocol, Self

from citadel.errors import CitadelError
from citadel.jwt.jwks import IssuerKey, KeySet
from citadel.jwt.settings import JwtRule

_KEPT: Final = timedelta(minutes=20)  # as Istio's, where the issuer does not say for how long
_KEPT_AT_LEAST: Final = timedelta(minutes=1)
_KEPT_AT_MOST: Final = timedelta(hours=1)  # until a key that its issuer took back is forgotten
_AHEAD: Final = (0.7, 0.9)  # of that time, by chance, so that not all agents ask at once
_FIRST_RETRY: Final = 0.5  # seconds
_LONGEST_RETRY_WITHOUT_KEYS: Final = 5.0
_LONGEST_RETRY: Final = 60.0
_BETWEEN_UNKNOWN_IDS: Final = 5.0  # anybody can invent a key id


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySource:
    """From where and how an issuer's keys are fetched. An empty `url` is to be discovered."""

    issuer: str
    url: str
    timeout: timedelta
    allow_private: bool
    ca_file: Path | None

    @classmethod
    def of(cls, rule: JwtRule) -> Self:
        return cls(
            issuer=rule.issuer,
            url=rule.jwksUri or "",
            timeout=rule.timeout,
            allow_private=rule.allowPrivateAddresses,
            ca_file=rule.caFile,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an issuer answered; `max_age` is None where it does not say for how long that may be kept."""

    keys: KeySet
    max_age: timedelta | None = None


class FetchKeys(Protocol):
    """Gets an issuer's keys from where they are published."""

    async def __call__(self, source: KeySource) -> Answer:
        """Ends within the source's timeout.

        Raises `CitadelError`: `jwks_unavailable`, `address_refused`, or `jwks_malformed` for what is no key set.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerStatus:
    """How it is with the keys of an issuer, in words for people; `since` is when it came to be like this."""

    issuer: str
    degraded: bool
    words: str
    since: datetime
    keys: int
    next_try: datetime


class InlineKeys:
    """Keys that stand in the policy itself. Fulfils `citadel.jwt.validator.IssuerKeys`."""

    def __init__(self, keys: KeySet) -> None:
        self._keys = keys

    async def under(self, key_id: str) -> Sequence[IssuerKey]:
        return self._keys.under(key_id)


class Holding:
    """What is held of one issuer. `now` is monotonic time in seconds; `jitter` gives numbers from 0 up to 1."""

    def __init__(self, *, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self.keys: KeySet | None = None
        self.error: CitadelError | None = None
        self.due = 0.0
        self.as_of = -inf  # when the fetch began that brought what is held
        self._asked = 0.0
        self._failures = 0

    def begin(self, *, now: float) -> None:
        """Keys are being fetched."""
        self._asked = now

    def take(self, answer: Answer, *, now: float) -> None:
        """They were: what was held before is forgotten."""
        self.keys, self.error, self._failures = answer.keys, None, 0
        self.as_of = self._asked
        said = _KEPT if answer.max_age is None else answer.max_age
        kept = min(max(said, _KEPT_AT_LEAST), _KEPT_AT_MOST).total_seconds()
        least, most = _AHEAD
        self.due = now + kept * (least + (most - least) * self._jitter())

    def fail(self, error: CitadelError, *, now: float) -> None:
        """They could not be: what is held stays."""
        self.error = error
        longest = _LONGEST_RETRY_WITHOUT_KEYS if self.keys is None else _LONGEST_RETRY
        wait = min(longest, _FIRST_RETRY * 2 ** min(self._failures, 20))
        self._failures += 1
        self.due = now + wait * (0.5 + 0.5 * self._jitter())

    def may_ask_for_unknown(self, *, now: float) -> bool:
        """Whether a key id that nobody knows is worth asking for: seldom, since anybody can invent one.

        Never while the last fetch failed: the next one is due soon, and strangers are not to shorten the wait for it.
        """
        return self.error is None and now - self._asked >= _BETWEEN_UNKNOWN_IDS
