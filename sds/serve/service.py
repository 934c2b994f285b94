"""Envoy's secret discovery service: who is calling, what they may have, and telling them when it changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, NoReturn

import grpc
import structlog
from envoy.service.discovery.v3 import discovery_pb2
from grpc import aio

from citadel._wire import types_pb2
from citadel.clock import Clock
from citadel.peer import Caller
from citadel.selector import Selector
from sds.holdings import HoldingsFeed
from sds.keep.waiting import news_or_time
from sds.serve.callers import LOOK_AGAIN, Attestation, Callers
from sds.serve.expiries import Expiries
from sds.serve.registry import StreamRegistry, resource_reports
from sds.serve.secrets import Available, SecretShelf
from sds.serve.stream import Heard, SecretStream, Standing, State

_PROTOCOL: Final = "sds"

_Context = aio.ServicerContext[Any, Any]

_log = structlog.get_logger(__name__)


class SecretDiscovery:
    """Fulfils `envoy.service.secret.v3.SecretDiscoveryService`, state of the world.

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
    ) -> None:
        self._callers = callers
        self._feed = feed
        self._shelf = shelf
        self._registry = registry
        self._expiries = expiries
        self._clock = clock

    async def StreamSecrets(  # noqa: N802 - the service's name for it
        self, request_iterator: AsyncIterator[discovery_pb2.DiscoveryRequest], context: _Context
    ) -> AsyncIterator[discovery_pb2.DiscoveryResponse]:
        """Serve one stream. gRPC asks for the next response once the last was taken, so only the newest is built."""
        caller = self._callers.caller_of(context.peer())
        live = _LiveStream(caller, self._registry)
        self._feed.watch(live.wake)
        reading = asyncio.create_task(live.read(request_iterator))
        reading.add_done_callback(lambda _: live.wake.set())
        try:
            while not reading.done():
                live.wake.clear()
                live.attestation = await self._callers.attest(caller, wants_sha256=self._wants_sha256)
                available = self._available(live.attestation)
                self._expiries.wake_at(live.wake, available.until)
                response = live.machine.offer(available.resources)
                live.report()
                if response is not None:
                    yield response
                if live.attestation.is_complete:
                    await live.wake.wait()
                else:
                    await news_or_time(live.wake, LOOK_AGAIN, clock=self._clock)
            await reading
        finally:
            self._feed.unwatch(live.wake)
            self._expiries.wake_at(live.wake, None)
            self._registry.end(live.id)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def DeltaSecrets(  # noqa: N802 - the service's name for it
        self,
        request_iterator: AsyncIterator[discovery_pb2.DeltaDiscoveryRequest],  # noqa: ARG002 - the service's signature
        context: _Context,
    ) -> AsyncIterator[discovery_pb2.DeltaDiscoveryResponse]:
        """Not offered yet."""
        await _unimplemented(context, "DeltaSecrets")
        yield  # makes this the generator that gRPC expects

    async def FetchSecrets(  # noqa: N802 - the service's name for it
        self,
        request: discovery_pb2.DiscoveryRequest,  # noqa: ARG002 - the service's signature
        context: _Context,
    ) -> discovery_pb2.DiscoveryResponse:
        """Not offered yet."""
        await _unimplemented(context, "FetchSecrets")

    def _wants_sha256(self, selectors: frozenset[Selector]) -> bool:
        return self._shelf.wants_sha256(self._feed.current, selectors)

    def _available(self, attestation: Attestation) -> Available:
        return self._shelf.available(self._feed.current, attestation.selectors, self._clock.now())


class _LiveStream:
    """The machine of one stream with what surrounds it."""

    def __init__(self, caller: Caller, registry: StreamRegistry) -> None:
        self.id = registry.new_id()
        self.machine = SecretStream()
        self.wake = asyncio.Event()
        self.attestation = Attestation(selectors=frozenset())
        self._caller = caller
        self._registry = registry
        self._log = _log.bind(stream=self.id, pid=caller.credentials.pid, uid=caller.credentials.uid)
        self._refused: Mapping[str, Standing] = {}
        self._has_said_wrong_type = False
        self._ignored_names = 0

    async def read(self, requests: AsyncIterator[discovery_pb2.DiscoveryRequest]) -> None:
        """Feed requests to the machine until the proxy has no more."""
        async for request in requests:
            heard = self.machine.on_request(request)
            self._log_what_was_heard(heard, request)
            self.report()
            # What needs no new answer wakes nobody: a flood of it costs its sender more than us.
            if heard not in (Heard.WRONG_TYPE, Heard.STALE_NONCE):
                self.wake.set()

    def report(self) -> None:
        """Tell the registry how the stream stands."""
        credentials = self._caller.credentials
        self._registry.report(
            types_pb2.StreamReport(
                stream_id=self.id,
                protocol=_PROTOCOL,
                pid=credentials.pid,
                uid=credentials.uid,
                gid=credentials.gid,
                executable=self.attestation.executable,
                node_id=self.machine.node_id,
                resources=resource_reports(self.machine.standings()),
            )
        )

    def _log_what_was_heard(self, heard: Heard, request: discovery_pb2.DiscoveryRequest) -> None:
        if heard is Heard.REFUSED:
            refused = {each.name: each for each in self.machine.standings() if each.state is State.REFUSED}
            for name, standing in refused.items():
                if standing != self._refused.get(name):  # said once, however often the proxy says so
                    self._log.warning("proxy refused a secret", name=name, refusal=standing.refusal)
            self._refused = refused
        elif heard is Heard.WRONG_TYPE and not self._has_said_wrong_type:
            self._has_said_wrong_type = True
            self._log.warning("request for another type ignored", type_url=request.type_url[:200])
        if self.machine.ignored_names and not self._ignored_names:
            self._ignored_names = self.machine.ignored_names
            self._log.warning("names ignored: too many or too long", ignored=self._ignored_names)


async def _unimplemented(context: _Context, method: str) -> NoReturn:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not offered; use StreamSecrets")
