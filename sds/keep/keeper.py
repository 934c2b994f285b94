"""Keeps an SVID for every entry that the agent has: makes keys, asks for certificates, checks, publishes, renews."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random
from typing import Final

import structlog
from cryptography import x509

from citadel._wire import agent_api_pb2 as pb
from citadel.clock import LONGEST_NAP, Clock
from citadel.errors import CitadelError, PermissionDenied, Reason, ResourceExhausted, Unauthenticated, Unavailable
from citadel.spiffe import TrustDomain
from citadel.waiting import news_or_time
from sds.holdings import HeldSvid, HoldingsFeed
from sds.keep.batch import Draft, draft, judge
from sds.keep.check import believed_by_nobody
from sds.keep.keys import KeyKind
from sds.keep.orders import OrderBook, RenewOrder
from sds.keep.schedule import HALF, Outlook, Schedule, call_timeout, retry_delay
from sds.keep.signer import Signed, Signer
from sds.settings import ReconnectSettings

# What one call asks for. An RSA key takes some 100 ms to make, and a batch is published as a whole.
_LARGEST_BATCH: Final[Mapping[KeyKind, int]] = {"ec-p256": 500, "ec-p384": 500, "rsa-2048": 16}
# An order goes to all agents, which spread over its window. Asked for singly, certificates cost the server thrice.
_HASTENED_TOGETHER: Final = 100

_log = structlog.get_logger(__name__)


class RenewalProgress:
    """Fulfils `sds.link.sync.RenewProgress`."""

    def __init__(self, orders: OrderBook, feed: HoldingsFeed) -> None:
        self._orders = orders
        self._feed = feed
        self.watch, self.unwatch = feed.watch, feed.unwatch

    def now(self) -> pb.RenewProgress:
        """What is left of each order."""
        return self._orders.progress(self._feed.current.svids.values())


class Keeper:
    """Fills `feed` with SVIDs for its entries and keeps them fresh, for as long as `run` runs.

    The trust domain's own bundle must be in `feed`: without it no answer can be checked, and nothing is asked for.
    """

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        key_kind: KeyKind,
        feed: HoldingsFeed,
        signer: Signer,
        reconnect: ReconnectSettings,
        clock: Clock,
        random: Random,
        renew_at: float = HALF,
    ) -> None:
        self._trust_domain = trust_domain
        self._key_kind = key_kind
        self._feed = feed
        self._signer = signer
        self._reconnect = reconnect
        self._clock = clock
        self._random = random
        self._schedule = Schedule(
            initial=reconnect.initial, maximum=reconnect.maximum, random=random, renew_at=renew_at
        )
        self._news = asyncio.Event()
        self._batch = _LARGEST_BATCH[key_kind]
        self._failures = 0
        self._trouble = ""
        self._paused_until = 0.0  # by the clock that never jumps
        self._orders = OrderBook()
        self._roots: tuple[x509.Certificate, ...] = ()  # by which all that is held was judged

    def server_is_back(self) -> None:
        """Ask at once for what is due, without waiting for the end of a pause."""
        self._paused_until = 0.0
        self._news.set()

    def obey(self, order: RenewOrder) -> None:
        """Renew what the order covers, spread over its window; also what is on its way and turns out to be covered."""
        self._orders.add(order)
        self._hasten(self._feed.current.svids.values())
        self._news.set()

    def progress(self) -> RenewalProgress:
        """How far the orders are obeyed, for the server."""
        return RenewalProgress(self._orders, self._feed)

    @property
    def trouble(self) -> str:
        """Why no certificate can be had for any entry now, in words; empty where one can."""
        return self._trouble

    def outlook(self, entry_id: str) -> Outlook | None:
        """What comes next for this entry, or None for one that is not known."""
        return self._schedule.outlook(entry_id, self._clock.now())

    async def run(self) -> None:
        """Keep going until cancelled."""
        self._feed.watch(self._news)
        try:
            while True:
                self._news.clear()
                now = self._clock.now()
                self._follow(now)
                await self._follow_roots(now)
                if self._may_ask() and (due := self._schedule.due(now)):
                    await self._renew(await asyncio.to_thread(draft, due[: self._batch], self._key_kind))
                else:
                    await news_or_time(self._news, self._nap(now).total_seconds(), clock=self._clock)
        finally:
            self._feed.unwatch(self._news)

    def _may_ask(self) -> bool:
        return not self._pause_left() and self._trust_domain in self._feed.current.bundles

    def _pause_left(self) -> timedelta:
        return timedelta(seconds=max(0.0, self._paused_until - self._clock.monotonic()))

    def _nap(self, now: datetime) -> timedelta:
        """Until something is due, a pause is over or an SVID ends, whatever is first."""
        naps = [LONGEST_NAP, *(held.svid.not_after - now for held in self._feed.current.svids.values())]
        if pause_left := self._pause_left():
            naps.append(pause_left)
        elif (due := self._schedule.next_due(now)) is not None and due > now:
            naps.append(due - now)
        return min(naps)

    def _follow(self, now: datetime) -> None:
        """Take over the entries as they are, and drop the SVIDs that have ended."""
        current = self._feed.current
        self._schedule.follow(current.entries.values())
        self._schedule.miss_all_but(current.svids)
        valid = {key: held for key, held in current.svids.items() if held.svid.not_after > now}
        if len(valid) < len(current.svids):
            for key in current.svids.keys() - valid.keys():
                _log.error("svid ended before it could be renewed", spiffe_id=str(current.svids[key].svid.spiffe_id))
            self._feed.publish(replace(current, svids=valid))

    async def _follow_roots(self, now: datetime) -> None:
        """Roots may go while the agent is away: what hangs on one of them is renewed before anything else."""
        bundle = self._feed.current.bundles.get(self._trust_domain)
        if bundle is None or bundle.x509_authorities == self._roots:
            return
        self._roots = bundle.x509_authorities
        held = tuple(self._feed.current.svids.values())
        for entry_id in await asyncio.to_thread(believed_by_nobody, held, bundle, now):
            self._schedule.hasten(entry_id, now)

    async def _renew(self, drafts: Sequence[Draft]) -> None:
        # Of all that are held, not of these alone: while this call hangs nothing else is renewed either.
        within = call_timeout(self._schedule.shortest_left(self._clock.now()))
        try:
            answers = await self._signer.sign([each.request for each in drafts], within=within)
        except CitadelError as error:
            self._on_failed_call(drafts, error)
            return
        if self._failures:
            _log.info("signing works again", failures=self._failures)
        self._failures, self._trouble = 0, ""
        self._batch = min(2 * self._batch, _LARGEST_BATCH[self._key_kind])
        # The bundle as it is now: the answers may stand under a root that was published while they were made.
        bundle, now = self._feed.current.bundles[self._trust_domain], self._clock.now()
        self._take(drafts, answers, await asyncio.to_thread(judge, drafts, answers, bundle=bundle, now=now))

    def _on_failed_call(self, drafts: Sequence[Draft], error: CitadelError) -> None:
        """A smaller batch finds the one that is at fault, or fits the limit; where all would fail, wait."""
        concerns_all = isinstance(error, Unavailable | Unauthenticated | PermissionDenied)
        if not concerns_all and len(drafts) > 1:
            self._batch = len(drafts) // 2
            _log.info("asking for fewer certificates at once", batch=self._batch, reason=error.reason)
        elif concerns_all or isinstance(error, ResourceExhausted):
            self._pause(error)
        else:
            self._refuse(drafts[0], error)

    def _pause(self, error: CitadelError) -> None:
        self._failures += 1
        self._trouble = f"{error} ({error.reason.value})"
        delay = retry_delay(
            self._failures,
            initial=self._reconnect.initial,
            maximum=self._reconnect.maximum,
            left=self._schedule.shortest_left(self._clock.now()),
            random=self._random,
        )
        self._paused_until = self._clock.monotonic() + delay.total_seconds()
        if self._failures == 1:
            _log.warning("cannot have certificates signed, trying again", reason=error.reason, error=str(error))

    def _take(
        self,
        drafts: Sequence[Draft],
        answers: Sequence[Signed | CitadelError],
        results: Sequence[HeldSvid | CitadelError],
    ) -> None:
        """Publish the good ones in one step. Entries may have changed or gone since they were asked for."""
        now, current = self._clock.now(), self._feed.current
        self._schedule.follow(current.entries.values())
        fresh = {}
        for each, answer, result in zip(drafts, answers, results, strict=True):
            if isinstance(result, CitadelError):
                self._refuse(each, result)
            elif current.revocations.holds(result.svid):
                self._refuse(each, _revoked(result))
            elif self._schedule.issued(each.entry, received=now, not_after=result.svid.not_after):
                fresh[each.entry.id] = result
                _log_issued(result, answer)
        if fresh:
            self._feed.publish(replace(current, svids={**current.svids, **fresh}))
            self._hasten(fresh.values())

    def _hasten(self, svids: Iterable[HeldSvid]) -> None:
        now, covered = self._clock.now(), list(self._orders.newly_covered(svids).items())
        for start in range(0, len(covered), _HASTENED_TOGETHER):
            share = self._random.random()
            for entry_id, window in covered[start : start + _HASTENED_TOGETHER]:
                self._schedule.hasten(entry_id, now + window * share)

    def _refuse(self, draft: Draft, error: CitadelError) -> None:
        if self._schedule.refused(draft.entry, error.reason, self._clock.now(), words=str(error)):
            _log.warning(
                "no svid for an entry, trying again",
                entry_id=draft.entry.id,
                spiffe_id=str(draft.entry.spiffe_id),
                reason=error.reason,
                error=str(error),
            )


def _revoked(held: HeldSvid) -> CitadelError:
    message = f"the server answered an SVID for {held.svid.spiffe_id} that is revoked, serial {held.svid.serial}"
    return PermissionDenied(Reason.IDENTITY_REVOKED, message)


def _log_issued(held: HeldSvid, answer: Signed | CitadelError) -> None:
    limited_by = answer.lifetime_limited_by if isinstance(answer, Signed) else ""
    _log.info(
        "svid issued",
        spiffe_id=str(held.svid.spiffe_id),
        serial=held.svid.serial,
        not_after=held.svid.not_after.isoformat(),
        lifetime_limited_by=limited_by,
    )
