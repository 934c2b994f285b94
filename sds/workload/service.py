"""The service behind `SpiffeWorkloadAPI`: who is calling, what they may have, and telling them when it changes."""

# ruff: noqa: N802, ARG002 - methods carry the standard's names and its form, whether they need each argument or not

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn, TypeVar

import grpc
from grpc import aio

from citadel._wire import workload_pb2 as pb
from citadel._wire.workload_pb2_grpc import SpiffeWorkloadAPIServicer
from citadel.clock import Clock
from citadel.errors import Reason, Unavailable
from citadel.waiting import news_or_time
from sds.holdings import HoldingsFeed
from sds.serve.callers import LOOK_AGAIN
from sds.serve.expiries import Expiries
from sds.serve.registry import StreamRegistry
from sds.workload.answer import Answer
from sds.workload.entitlement import Entitlement
from sds.workload.snapshot import Snapshot
from sds.workload.stream import LiveStream
from sds.workload.tokens import JwtCalls

_Context = aio.ServicerContext[Any, Any]
_Message = TypeVar("_Message")


class WorkloadApi(SpiffeWorkloadAPIServicer):
    """Fulfils the X.509 and JWT profiles of the Workload API."""

    def __init__(
        self,
        *,
        entitlement: Entitlement,
        jwt: JwtCalls,
        feed: HoldingsFeed,
        registry: StreamRegistry,
        expiries: Expiries,
        clock: Clock,
    ) -> None:
        self._entitlement = entitlement
        self._jwt = jwt
        self._feed = feed
        self._registry = registry
        self._expiries = expiries
        self._clock = clock

    def FetchX509SVID(self, request: pb.X509SVIDRequest, context: _Context) -> AsyncIterator[pb.X509SVIDResponse]:
        return self._push(context, lambda snapshot: snapshot.svids)

    def FetchX509Bundles(
        self, request: pb.X509BundlesRequest, context: _Context
    ) -> AsyncIterator[pb.X509BundlesResponse]:
        return self._push(context, lambda snapshot: snapshot.bundles)

    async def FetchJWTSVID(self, request: pb.JWTSVIDRequest, context: _Context) -> pb.JWTSVIDResponse:
        return await self._jwt.fetch(request, self._entitlement.caller_of(context.peer()))

    def FetchJWTBundles(self, request: pb.JWTBundlesRequest, context: _Context) -> AsyncIterator[pb.JWTBundlesResponse]:
        return self._push(context, lambda snapshot: snapshot.jwt_bundles)

    async def ValidateJWTSVID(
        self, request: pb.ValidateJWTSVIDRequest, context: _Context
    ) -> pb.ValidateJWTSVIDResponse:
        return await self._jwt.validate(request, self._entitlement.caller_of(context.peer()))

    async def FetchWITSVID(self, request: pb.WITSVIDRequest, context: _Context) -> AsyncIterator[pb.WITSVIDResponse]:
        await _not_offered(context, "WIT-SVID")
        yield  # makes this the generator that gRPC expects

    async def FetchWITBundles(
        self, request: pb.WITBundlesRequest, context: _Context
    ) -> AsyncIterator[pb.WITBundlesResponse]:
        await _not_offered(context, "WIT-SVID")
        yield  # as above

    async def _push(
        self, context: _Context, pick: Callable[[Snapshot], Answer[_Message] | None]
    ) -> AsyncIterator[_Message]:
        """Send a message at once and whenever it changes (WAPI-08, WAPI-09).

        gRPC asks for the next message once the last was written, so that a slow reader is sent only the newest.
        """
        caller = self._entitlement.caller_of(context.peer())
        stream = LiveStream(caller, self._registry, now=self._clock.now())
        self._feed.watch(stream.wake)
        try:
            while True:
                stream.wake.clear()
                # Again before each push: the entry may be gone, or its time over (WAPI-27).
                snapshot = await self._look(stream)
                self._expiries.wake_at(stream.wake, snapshot.until)
                answer = pick(snapshot)
                if answer is not None:
                    if not answer.says_the_same_as(stream.answer):
                        stream.begin(answer)
                        yield answer.message
                    stream.has_written(answer)
                await self._next_change(stream, is_pending=answer is None)
        finally:
            self._feed.unwatch(stream.wake)
            self._entitlement.wake_at_change(stream.wake, None)
            self._expiries.wake_at(stream.wake, None)
            self._registry.end(stream.id)

    async def _look(self, stream: LiveStream) -> Snapshot:
        stream.attestation, snapshot = await self._entitlement.look(stream.caller)
        self._entitlement.wake_at_change(stream.wake, stream.attestation)
        return snapshot

    async def _next_change(self, stream: LiveStream, *, is_pending: bool) -> None:
        """Wait until something may be new. Raises `Unavailable` where what the caller waits for does not come."""
        left = stream.patience_left(self._clock.monotonic(), is_pending=is_pending)
        if left is not None and left <= 0:
            raise Unavailable(
                Reason.NOT_READY,
                "there is an entry for the caller, but no certificate yet",
                fix="try again in a moment; this agent's log says why none was issued",
            )
        if not stream.attestation.is_complete:
            left = min(left or LOOK_AGAIN, LOOK_AGAIN)
        if left is None:
            await stream.wake.wait()
        else:
            await news_or_time(stream.wake, left, clock=self._clock)


async def _not_offered(context: _Context, profile: str) -> NoReturn:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"the {profile} profile is not offered")
