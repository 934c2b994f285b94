"""Taking what children say: believed, durable, and only then in force; and forgetting it when its time has come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import structlog
from cryptography import x509

from ca.clusters.model import Said
from ca.clusters.records import ChildRecords
from ca.clusters.recovering import Recovering
from ca.clusters.sessions import ChildBook, ChildSession
from ca.clusters.twins import Twins
from ca.entries.downstream import DownstreamEntries
from citadel._wire import clusters_pb2 as pb
from citadel.actor import Actor
from citadel.clock import Clock
from citadel.errors import CitadelError, InvalidArgument, PermissionDenied, Reason, ResourceExhausted
from citadel.jwk import JwtKey
from citadel.limiter import RateLimiter
from citadel.revocation import RevocationList
from citadel.spiffe import SpiffeId
from citadel.tally import Tally

_log = structlog.get_logger(__name__)

_RETRY_SECONDS: Final = 1.0
_TIDY_SECONDS: Final = 10.0
_MOST_TOLD: Final = 5
# Each change is a new version, which everybody must acknowledge before a rotation goes on.
_CHANGES_PER_SECOND: Final = 0.1
_CHANGES_AT_ONCE: Final = 20
# Each costs this server time and memory, however short it is. Lists of so many authorities would not fit anyhow.
_MOST_ISSUERS: Final = 10_000
_MOST_CLUSTERS: Final = 1000


class Keeping:
    """One change at a time, in the background: many reports that come together are one change of the bundle."""

    def __init__(
        self,
        *,
        records: ChildRecords,
        book: ChildBook,
        entries: DownstreamEntries,
        recovering: Recovering,
        settle: Callable[[], Awaitable[None]],
        tally: Tally,
        clock: Clock,
    ) -> None:
        """`settle` puts bundle and lists in force as the records say then."""
        self._records = records
        self._book = book
        self._entries = entries
        self._recovering = recovering
        self._settle = settle
        self._tally = tally
        self._clock = clock
        self.twins = Twins(clock=clock)
        self._of_either: set[SpiffeId] = set()  # of whom is kept what two of them said
        self._limiter = RateLimiter(clock=clock, per_second=_CHANGES_PER_SECOND, burst=_CHANGES_AT_ONCE)
        self._held: set[SpiffeId] = set()  # whoever changes what it says all the time
        self._to_keep: dict[SpiffeId, Said] = {}
        self._settled: object = None  # what bundle and lists were settled with
        self._news = asyncio.Event()
        entries.watch(self._news.set)
        book.watch(self._news.set)

    async def take(self, session: ChildSession, report: pb.ClusterReport) -> None:
        """Take what a child says; not what an older stream of it says.

        Raises as `read_report`, and `InvalidArgument` (`request_malformed`) for more than any clusters have.
        """
        if len(report.issuers) > _MOST_ISSUERS or len(report.below) > _MOST_CLUSTERS:
            raise InvalidArgument(Reason.REQUEST_MALFORMED, "a report of more authorities or clusters than are taken")
        child, before = session.child.spiffe_id, session.report
        if before is not None and self._has_no_news(child, before, report):
            session.report = report
            return
        await self._recovering.take_up(child, report)
        reading = await self._records.read(child, report)
        if self._book.connected().get(child) is not session:
            return
        for why in reading.ignored[:_MOST_TOLD]:
            refusal = PermissionDenied(Reason.DOWNSTREAM_REFUSED, f"{child} reported {why}: ignored")
            self._tally.count_refused("Follow", refusal, by=Actor.identity(child))
        if session.said is None:
            self.twins.look(session, reading.said, self._signed(child))
        self._note(child, reading.said)
        session.report, session.said = report, reading.said

    def _note(self, child: SpiffeId, said: Said) -> None:
        known = self._to_keep.get(child) or self._records.said(child)
        either = self.twins.said_by_either(child, said, self._signed(child))
        if either is said:
            self._of_either.discard(child)
        else:
            self._of_either.add(child)
        if known is None or not known.says_the_same(either) or self._was_given_more(child, known):
            self._to_keep[child] = either
            self._news.set()

    def _forget_twins(self) -> None:
        """Believe what the one says that is still there, once the other has been away for a while."""
        for child in self._of_either - self.twins.possible():
            session = self._book.connected().get(child)
            if session is not None and session.said is not None:
                self._note(child, session.said)

    def _signed(self, child: SpiffeId) -> list[x509.Certificate]:
        return [each.certificate for each in self._records.signed(child)]

    def _has_no_news(self, child: SpiffeId, before: pb.ClusterReport, report: pb.ClusterReport) -> bool:
        """Whether it tells of its mesh alone, which it does many times a second while a rotation waits for that."""
        known = self._to_keep.get(child) or self._records.said(child)
        is_same = _of_authorities(report) == _of_authorities(before)
        return known is not None and is_same and not self._was_given_more(child, known)

    def _was_given_more(self, child: SpiffeId, said: Said) -> bool:
        """Whether an authority was, or may have been, signed for it since: its next report says what it has."""
        is_news = self._records.gaps.is_news(said.at)
        return not is_news or any(each.signed_at > said.at for each in self._records.signed(child))

    async def run(self) -> None:
        """Keep what was said and forget what has ended, for ever. The authorities are started before."""
        self._settled = self._brought()
        while True:
            self._news.clear()
            try:
                await self._keep_all()
            except CitadelError as error:
                _log.warning("what child clusters say is not in force yet", reason=error.reason.value, error=str(error))
                await self._clock.sleep(_RETRY_SECONDS)
                continue
            await self._rest()

    async def _keep_all(self) -> None:
        self._forget_twins()
        for child, said in list(self._to_keep.items()):
            if self._must_wait(child, said):
                continue
            await self._records.keep(child, said)
            if self._to_keep[child] is said:
                del self._to_keep[child]
        await self._tidy()
        if (brought := self._brought()) != self._settled:
            await self._settle()
            self._settled = brought

    def _must_wait(self, child: SpiffeId, said: Said) -> bool:
        """Whether this is one change too many just now. What is said meanwhile is one change with it."""
        known = self._records.said(child)
        if known is not None and known.says_the_same(said):
            return False
        try:
            self._limiter.admit(child)
        except ResourceExhausted as error:
            if child not in self._held:
                self._held.add(child)
                self._tally.count_refused("Follow", error, by=Actor.identity(child))
                _log.warning("a child changes its lists or keys all the time: it is taken later", child=str(child))
            return True
        self._held.discard(child)
        return False

    def _brought(self) -> tuple[Mapping[str, JwtKey], Sequence[RevocationList] | None]:
        return self._records.jwt_keys(), self._records.lists()

    async def _tidy(self) -> None:
        now = self._clock.now()
        children = {*self._records.who_said(), *self._records.children()}
        gone = frozenset(child for child in children if self._entries.of(child, now) is None)
        self._records.disowned = gone
        self._records.entitled = self._entries.identities(now)
        for child in self._records.who_said():
            if child in gone:
                await self._records.drop_keys(child)
            if not self._records.signed(child) and child not in self._book.connected():
                await self._records.forget(child)

    async def _rest(self) -> None:
        seconds = _RETRY_SECONDS if self._of_either or self._to_keep else _TIDY_SECONDS
        waiting = (asyncio.ensure_future(self._news.wait()), asyncio.ensure_future(self._clock.sleep(seconds)))
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()


def _of_authorities(report: pb.ClusterReport) -> bytes:
    """What it says of authorities and keys, as bytes: these are compared at once, and thousands of messages are not."""
    return pb.ClusterReport(issuers=report.issuers, jwt_keys=report.jwt_keys).SerializeToString(deterministic=True)
