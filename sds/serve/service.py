"""Envoy's secret discovery service: who is calling, what they may have, and telling them when it changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from itertools import islice
from typing import Any, Final

from envoy.service.discovery.v3 import discovery_pb2
from grpc import aio

from citadel.clock import Clock
from citadel.errors import InvalidArgument, Reason
from citadel.kubernetes.credential_names import is_credential_name
from citadel.selector import Selector
from citadel.waiting import news_or_time
from sds.holdings import HoldingsFeed
from sds.serve.available import Available
from sds.serve.callers import LOOK_AGAIN, Callers
from sds.serve.credentials import Credentials, with_credentials
from sds.serve.delta import DeltaSecretStream
from sds.serve.expiries import Expiries
from sds.serve.live import LiveStream, StreamMachine
from sds.serve.registry import StreamRegistry
from sds.serve.resource import SECRET_TYPE_URL
from sds.serve.secrets import SecretShelf
from sds.serve.shared import SharedResponses
from sds.serve.stream import SecretStream, fetched

_FETCH_WAITS: Final = 5.0  # seconds for credentials that the server has not told yet

_Context = aio.ServicerContext[Any, Any]


class SecretDiscovery:
    """Fulfils `envoy.service.secret.v3.SecretDiscoveryService`.

    A stream whose caller may have nothing stays open and is answered as soon as there is something.
    """

    def __init__(
        self,
        *,
        callers: Callers,
        feed: HoldingsFeed,
        shelf: SecretShelf,
        registry: StreamRegistry,
        expiries: Expiries,
        clock: Clock,
        max_names: int,
        credentials: Credentials,
    ) -> None:
        self._callers = callers
        self._feed = feed
        self._shelf = shelf
        self._registry = registry
        self._expiries = expiries
        self._clock = clock
        self._max_names = max_names
        self._credentials = credentials
        self._shared = SharedResponses()

    def StreamSecrets(  # noqa: N802 - the service's name for it
        self, requests: AsyncIterator[discovery_pb2.DiscoveryRequest], context: _Context
    ) -> AsyncIterator[discovery_pb2.DiscoveryResponse]:
        """Serve one stream, state of the world."""
        return self._serve(SecretStream(max_names=self._max_names, shared=self._shared), requests, context)

    def DeltaSecrets(  # noqa: N802 - the service's name for it
        self, requests: AsyncIterator[discovery_pb2.DeltaDiscoveryRequest], context: _Context
    ) -> AsyncIterator[discovery_pb2.DeltaDiscoveryResponse]:
        """Serve one stream, incremental."""
        return self._serve(DeltaSecretStream(max_names=self._max_names, shared=self._shared), requests, context)

    async def FetchSecrets(  # noqa: N802 - the service's name for it
        self, request: discovery_pb2.DiscoveryRequest, context: _Context
    ) -> discovery_pb2.DiscoveryResponse:
        """What there is now of the names that are asked for; what there is not is left out.

        Raises:
            InvalidArgument: `request_malformed` for another type than secrets.
        """
        if request.type_url not in ("", SECRET_TYPE_URL):
            raise InvalidArgument(Reason.REQUEST_MALFORMED, f"{request.type_url[:200]!r} is not served, only secrets")
        caller = self._callers.caller_of(context.peer())
        live = LiveStream(SecretStream(max_names=self._max_names), caller, self._registry, now=self._clock.now())
        try:
            live.attestation = await self._callers.attest(caller, wants_sha256=self._wants_sha256)
            available = await self._fetched(live, request.resource_names)
            live.take_all(request, available)
            return fetched(request, available, max_names=self._max_names)
        finally:
            self._credentials.leave(live.wake)
            self._registry.end(live.id)

    async def _serve(
        self, machine: StreamMachine, requests: AsyncIterator[Any], context: _Context
    ) -> AsyncIterator[Any]:
        """Serve one stream. gRPC asks for the next response once the last was taken, so only the newest is built."""
        caller = self._callers.caller_of(context.peer())
        live = LiveStream(machine, caller, self._registry, now=self._clock.now())
        self._feed.watch(live.wake)
        reading = asyncio.create_task(live.read(requests))
        reading.add_done_callback(lambda _: live.wake.set())
        try:
            while not reading.done():
                live.wake.clear()
                live.attestation = await self._callers.attest(caller, wants_sha256=self._wants_sha256)
                self._callers.wake_at_change(live.wake, live.attestation)
                available = self._available(live, live.machine.names)
                self._expiries.wake_at(live.wake, available.until)
                response = live.next_response(available)
                if response is not None:
                    yield response
                elif live.attestation.is_complete:
                    await live.wake.wait()
                else:
                    await news_or_time(live.wake, LOOK_AGAIN, clock=self._clock)
            await reading
        finally:
            self._feed.unwatch(live.wake)
            self._callers.wake_at_change(live.wake, None)
            self._credentials.leave(live.wake)
            self._expiries.wake_at(live.wake, None)
            self._registry.end(live.id)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def _wants_sha256(self, selectors: frozenset[Selector]) -> bool:
        return self._shelf.wants_sha256(self._feed.current, selectors)

    def _available(self, live: LiveStream, names: Iterable[str]) -> Available:
        selectors, now = live.attestation.for_entries, self._clock.now()
        available = self._shelf.available(self._feed.current, selectors, now)
        if not live.attestation.is_complete:  # what could not be seen of the caller may yet give it more
            available = replace(available, is_known=False)
        # Not only where there are any now: it says that none are wanted any more.
        asked = list(islice(filter(is_credential_name, names), self._max_names))
        if not asked and not live.awaiting:
            return available
        gateway = self._shelf.gateway(self._feed.current, selectors, now)
        known = self._credentials.ask(live.wake, gateway, asked, is_known=available.is_known)
        live.awaiting = {name: each.why for name, each in known.items()}
        return with_credentials(available, known) if known else available

    async def _fetched(self, live: LiveStream, names: Iterable[str]) -> Available:
        """What is there, and credentials of gateways as soon as they are, since nobody asks twice at once."""
        until = self._clock.monotonic() + _FETCH_WAITS
        while True:
            live.wake.clear()
            available = self._available(live, names)
            left = until - self._clock.monotonic()
            if left <= 0 or not any(is_credential_name(each) and not live.awaiting[each] for each in available.awaited):
                return available
            await news_or_time(live.wake, left, clock=self._clock)
