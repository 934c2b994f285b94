"""How each federation is: when its bundle was fetched last, and what went wrong since."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime

from ca.federation.known import KnownBundle
from ca.federation.model import Federation
from citadel.bundle_keys import Skipped
from citadel.errors import CitadelError
from citadel.probes import Check, Health
from citadel.spiffe import TrustDomain


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One federation now. `error` is why the last `failures` fetches brought nothing; none where the last was good."""

    federation: Federation
    refreshed_at: datetime | None
    next_refresh_at: datetime | None
    failures: int
    error: CitadelError | None

    @property
    def trust_domain(self) -> TrustDomain:
        """Whose bundle it brings."""
        return self.federation.trust_domain


@dataclass(slots=True, eq=False)
class Following:
    """The same as it changes. `taken` is the digest of the last document that was taken, and what it became.

    `skipped` is what the last document had that cannot be used. `is_hasty`: it changes more often than it is followed.
    """

    federation: Federation
    refreshed_at: datetime | None
    kept_at: datetime | None = None  # what the store has for `refreshed_at`
    next_refresh_at: datetime | None = None
    failures: int = 0
    error: CitadelError | None = None
    taken: tuple[bytes, KnownBundle | None] = (b"", None)
    skipped: Skipped | None = None
    is_hasty: bool = False
    has_ended: bool = False
    fetching: asyncio.Lock = field(default_factory=asyncio.Lock)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)  # what is in force of it
    polling: asyncio.Task[None] | None = None

    def standing(self) -> Standing:
        """As it is now."""
        return Standing(
            federation=self.federation,
            refreshed_at=self.refreshed_at,
            next_refresh_at=self.next_refresh_at,
            failures=self.failures,
            error=self.error,
        )

    def note_good(self, at: datetime) -> None:
        """A fetch brought the newest bundle."""
        self.refreshed_at, self.failures, self.error = at, 0, None

    def note_failed(self, error: CitadelError) -> bool:
        """A fetch brought nothing. Whether that is news."""
        is_news = self.is_news(error)
        self.failures, self.error = self.failures + 1, error
        return is_news

    def is_news(self, error: CitadelError) -> bool:
        """Whether the last fetch did not fail like this."""
        return self.error is None or (self.error.reason, self.error.message) != (error.reason, error.message)

    def end(self) -> None:
        """Fetch no more, and take nothing of what is being fetched."""
        self.has_ended = True
        self.stop_polling()

    def stop_polling(self) -> None:
        """End what fetches it again and again."""
        if self.polling is not None:
            self.polling.cancel()


def federation_check(standings: list[Standing]) -> Check:
    """For `/ready`: good always, since a foreign endpoint that is away stops nobody here; in words what is wrong."""
    failing = [each for each in standings if each.error is not None]
    text = f"{len(standings) - len(failing)} of {len(standings)} foreign bundles are fresh"
    if failing:
        first = failing[0]
        text += f"; {first.trust_domain}: {first.error.message if first.error else ''}"
    return Check("federation", Health.GOOD, text)
