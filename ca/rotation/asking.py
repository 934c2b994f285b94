"""Clients that ask by themselves: Istio's proxies, and whoever has certificates by objects of Kubernetes.

Nothing is pushed to them and they acknowledge nothing. Istio's proxies learn of a new root when they ask for their next
certificate, and by the end of the one that they have at the latest. What is signed for objects of Kubernetes holds no
root: those clients have theirs from the bundle that is kept in their cluster, which is waited for by itself. For each
root in the bundle it is kept until when such a client may not know it: the last end of all that such clients had been
handed out when it was published.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, Protocol

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from ca.rotation.model import Holder
from citadel.clock import Clock
from citadel.errors import CitadelError
from citadel.repeated import Repeated

NAME: Final = "kubernetes"  # what a person may skip
WORDS: Final = "clients that ask by themselves learn of the new root when they ask for their next certificate"
_RETRY_SECONDS: Final = 1.0
# Where nobody had anything: no time of this clock, which may jump back.
_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)

_log = structlog.get_logger(__name__)


class PublishedRoots(Protocol):
    """Where it is kept, by the SHA-256 of a root in hex."""

    async def load(self) -> Mapping[str, datetime]:
        """All of them."""
        ...

    async def replace(self, until: Mapping[str, datetime]) -> None:
        """Keep these and no others."""
        ...


class HandedOut(Protocol):
    """What the ledger knows of their certificates."""

    async def last_end_of_asking(self, *, issued_after: datetime) -> datetime | None:
        """When the last one ends that was handed out until now; None where there is none.

        What was issued before `issued_after` is not looked at.
        """
        ...


class AskingClients:
    """Knows how long such clients may not know a root. `start` it with the authorities; `run` for ever."""

    def __init__(
        self,
        *,
        roots: Callable[[], tuple[x509.Certificate, ...]],
        handed_out: HandedOut,
        earliest: Callable[[], datetime],
        store: PublishedRoots,
        clock: Clock,
    ) -> None:
        """`roots` are those of the own bundle as it is now: whoever asks from now on is told of them.

        Nothing that is valid was signed before `earliest`.
        """
        self._roots = roots
        self._handed_out = handed_out
        self._earliest = earliest
        self._store = store
        self._clock = clock
        self._until: Mapping[str, datetime] = {}
        self._digests: tuple[tuple[x509.Certificate, ...], frozenset[str]] = ((), frozenset())
        self._news = asyncio.Event()
        self._said = Repeated(clock=clock)

    async def start(self) -> None:
        """Know what an earlier process has kept."""
        self._until = await self._store.load()

    def wake(self) -> None:
        """The bundle may be another one."""
        self._news.set()

    async def run(self) -> None:
        """Keep what there is to keep of every root that is published, for ever."""
        while True:
            self._news.clear()
            try:
                await self._note()
            except CitadelError as error:
                if self._said.is_news(str(error)):
                    _log.error("published root not noted, trying again", reason=error.reason.value, error=str(error))
                await self._clock.sleep(_RETRY_SECONDS)
                continue
            await self._news.wait()

    def left(self, now: datetime) -> Sequence[Holder]:
        """As somebody who is waited for, until all such clients have asked since the newest root was published."""
        roots = self._published()
        if not roots <= self._until.keys():  # asked in a moment, once it is in the bundle
            return [
                Holder(name=NAME, words="it is looked up until when clients that ask by themselves have what they had")
            ]
        until = max((self._until[root] for root in roots), default=now)
        return [Holder(name=NAME, words=WORDS, until=until, is_mere_time=True)] if until > now else []

    async def would_be_left(self, now: datetime) -> Sequence[Holder]:
        """The same, of a root that would be published now."""
        end = await self._handed_out.last_end_of_asking(issued_after=self._earliest())
        return [Holder(name=NAME, words=WORDS, until=end, is_mere_time=True)] if end is not None and end > now else []

    async def _note(self) -> None:
        roots = self._published()
        if roots == self._until.keys():
            return
        # They are in the bundle already: what is recorded after this question is answered with them.
        end = await self._handed_out.last_end_of_asking(issued_after=self._earliest()) or _NEVER
        until = {root: self._until.get(root, end) for root in roots}
        await self._store.replace(until)
        self._until = until

    def _published(self) -> frozenset[str]:
        roots = self._roots()
        if self._digests[0] is not roots:
            self._digests = roots, frozenset(each.fingerprint(hashes.SHA256()).hex() for each in roots)
        return self._digests[1]
