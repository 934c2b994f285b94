"""Renewal of the agent's own SVID, at half of its life, with a new key each time; and its return after the end."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from random import Random
from typing import Final

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from citadel._wire import agent_api_pb2 as pb
from citadel.call import answer_of
from citadel.clock import Clock, sleep_until
from citadel.errors import CitadelError, PermissionDenied, Reason, Unauthenticated
from citadel.waiting import first_of
from sds.keep.check import check_issued
from sds.keep.keys import PrivateKey, new_key, request_for
from sds.keep.orders import RenewOrder
from sds.keep.schedule import HALF, renewal_time, retry_delay
from sds.link.identity import OwnIdentity
from sds.link.link import Link
from sds.link.returning import Returning
from sds.settings import ReconnectSettings

_TIMEOUT: Final = 15.0  # seconds
# Of an order's window. Workloads' SVIDs wait for the agent's own, and are spread over what is left.
_OWN_SHARE: Final = 0.25
_TAKEN: Final = 6  # longest waits between two tries while another agent has this one's node
_LOOK_SECONDS: Final = 5.0  # without a link, between two looks at what the server shows

_log = structlog.get_logger(__name__)


class OwnRenewal:
    """Keeps the agent's identity fresh and moves `link` over to it, for as long as `run` runs.

    Renewing goes over `link`. Once the SVID has ended nobody lets it in there, and `returning` asks in its place.
    """

    def __init__(
        self,
        *,
        identity: OwnIdentity,
        link: Link,
        returning: Returning,
        reconnect: ReconnectSettings,
        clock: Clock,
        random: Random,
        renew_at: float = HALF,
    ) -> None:
        self._renew_at = renew_at
        self._identity = identity
        self._link = link
        self._returning = returning
        self._now = asyncio.Event()  # renew without waiting for half of the life
        self._due = identity.current.svid.not_after
        self._sooner = asyncio.Event()  # an order made `_due` earlier
        self._is_shut_out = False  # as the server says
        self._told: set[Reason] = set()  # kinds of trouble, since it last went well
        self._reconnect = reconnect
        self._clock = clock
        self._random = random

    def obey(self, order: RenewOrder) -> None:
        """Renew soon where the order covers the agent's own SVID, and at once where it leaves no time."""
        svid = self._identity.current.svid
        if order.own and order.covers(svid, svid.issuer_key_id):
            self._due = min(self._due, self._clock.now() + order.window * (_OWN_SHARE * self._random.random()))
            self._sooner.set()

    def look_again(self) -> None:
        """The roots of the own trust domain have changed: whoever hangs on one that is gone is let in no more."""
        if not self._is_believed():
            self._now.set()

    async def run(self) -> None:
        """Keep going until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_fresh())
            tasks.create_task(self._see_whether_it_is_shut_out())

    async def _see_whether_it_is_shut_out(self) -> None:
        """Roots may go while the agent is away: then its SVID is good until its end, and yet nobody lets it in."""
        while True:
            await self._clock.sleep(_LOOK_SECONDS * self._random.uniform(1, 1.5))
            if self._link.is_up or self._is_shut_out:
                continue
            why = await self._why_it_is_shut_out()
            if why:
                _log.warning(why)
                self._is_shut_out = True
                self._now.set()

    async def _why_it_is_shut_out(self) -> str:
        if self._returning.comes_anew(self._link.trouble):
            return "another agent has taken the place of this one, or it was evicted: asking to be let in anew"
        try:
            if await self._returning.knows_no_more(self._identity.current):
                return "the server has dropped the root of the agent's own svid, coming back with its recorded key"
        except CitadelError:
            pass  # a server that is away: there is nobody to be let in by
        return ""

    async def _keep_fresh(self) -> None:
        received = self._identity.current.svid.not_before  # when it was really received is not known after a restart
        while True:
            not_after = self._identity.current.svid.not_after
            self._due = renewal_time(received=received, not_after=not_after, at=self._renew_at, random=self._random)
            await self._until_due()
            self._now.clear()
            attempts = AsyncRetrying(
                retry=retry_if_exception_type(CitadelError), wait=self._wait, sleep=self._clock.sleep, reraise=True
            )
            await attempts(self._renew_or_return)
            self._told.clear()
            received = self._clock.now()

    async def _until_due(self) -> None:
        while not self._now.is_set() and self._clock.now() < self._due:
            self._sooner.clear()
            await first_of(sleep_until(self._clock, self._due), self._now.wait(), self._sooner.wait())

    async def _renew_or_return(self) -> None:
        key = await self._next_key()  # the server may know it already, whichever way it was sent
        # Hanging on a root that is gone, the own SVID opens no new connection; one that is open stays so until it ends.
        is_let_in = self._link.is_up and self._identity.current.svid.not_after > self._clock.now()
        if is_let_in or (not self._is_shut_out and await asyncio.to_thread(self._is_believed)):
            await self._renew(key)
        else:
            await self._return(key)
        self._is_shut_out = False
        self._link.move()

    def _is_believed(self) -> bool:
        """Whether a new connection with the own SVID would be let in, as far as the own bundle says."""
        identity = self._identity.current
        return identity.is_believed_by(identity.bundle, self._clock.now())

    async def _return(self, key: PrivateKey) -> None:
        back = await self._returning.identity(self._identity.current, key=key)
        await self._identity.change(
            svid=back.svid,
            key=back.key,
            next_key=None,
            bundle=back.bundle,
            agent_api=back.agent_api,
            bootstrap=back.bootstrap,
        )
        _log.info("back with a new svid", serial=back.svid.serial, not_after=back.svid.not_after.isoformat())

    async def _renew(self, key: PrivateKey) -> None:
        request = pb.RenewAgentRequest(csr=request_for(key))
        answer = await answer_of(self._link.api.RenewAgent(request, timeout=_TIMEOUT))
        identity = self._identity.current
        svid = await asyncio.to_thread(
            check_issued,
            answer.chain,
            spiffe_id=identity.svid.spiffe_id,
            public_key=key.public_key(),
            bundle=identity.bundle,
            now=self._clock.now(),
        )
        await self._identity.change(svid=svid, key=key, next_key=None)
        _log.info("own svid renewed", serial=svid.serial, not_after=svid.not_after.isoformat())

    async def _next_key(self) -> PrivateKey:
        """The key to ask for: on disk before it is sent, and the same again while no answer has come."""
        key = self._identity.current.next_key
        if key is None:
            key = new_key("ec-p256")
            await self._identity.change(next_key=key)
        return key

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        left = self._identity.current.svid.not_after - self._clock.now()
        if isinstance(error, CitadelError) and error.reason not in self._told:
            self._told.add(error.reason)
            _log.warning(
                "cannot renew the agent's own svid, trying again; what is held is served on",
                reason=error.reason,
                error=str(error),
                ends_in=str(left),
            )
        if isinstance(error, PermissionDenied) and error.reason is Reason.K8S_NODE_TAKEN:
            return _TAKEN * self._reconnect.maximum.total_seconds() * self._random.uniform(0.75, 1.25)
        if left <= timedelta(0) and isinstance(error, Unauthenticated | PermissionDenied):
            return self._reconnect.maximum.total_seconds()  # only a person can help
        return retry_delay(
            state.attempt_number,
            initial=self._reconnect.initial,
            maximum=self._reconnect.maximum,
            left=left if left > timedelta(0) else None,
            random=self._random,
        ).total_seconds()
