"""The agent's link to its server: one line at a time, kept up for ever, moved when the agent's identity changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from citadel._wire import agent_api_pb2 as pb
from citadel._wire import agent_api_pb2_grpc
from citadel.clock import Clock
from citadel.config.types import HostPort
from sds.holdings import HoldingsFeed
from sds.keep.orders import RenewOrder
from sds.keep.waiting import first_of
from sds.link.channel import agent_channel
from sds.link.identity import OwnIdentity
from sds.link.line import Line
from sds.link.sync import RenewProgress, StreamReports, SyncStream
from sds.link.updates import Change, after
from sds.settings import ReconnectSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """What the server is told beside acknowledgements."""

    reports: StreamReports
    progress: RenewProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class Heeding:
    """Who is told what the server says beside entries and bundles."""

    on_up: Callable[[], None]  # the server is back
    on_order: Callable[[RenewOrder], None]  # it orders to renew
    on_roots: Callable[[], None]  # the roots of the own trust domain have changed


class Link:
    """Fills `feed` with what the server tells, for as long as `run` runs.

    `servers` are where to find it, the first choice first; none of them means the one that was told when joining.
    """

    def __init__(
        self,
        *,
        identity: OwnIdentity,
        servers: Sequence[HostPort],
        hello: pb.Hello,
        feed: HoldingsFeed,
        telling: Telling,
        heeding: Heeding,
        reconnect: ReconnectSettings,
        clock: Clock,
    ) -> None:
        self._identity = identity
        self._servers = servers
        self._hello = hello
        self._feed = feed
        self._telling = telling
        self._reconnect = reconnect
        self._clock = clock
        self._heeding = heeding
        self._move = asyncio.Event()
        self._line = self._new_line()
        self.was_up = False  # whether the server was ever heard

    @property
    def is_up(self) -> bool:
        """Whether the server has told all it knows, and would tell of changes now."""
        return self._line.is_up

    @property
    def api(self) -> agent_api_pb2_grpc.AgentApiAsyncStub:
        """The server, on the line that is in use. Ask anew for each call."""
        return self._line.api

    def move(self) -> None:
        """Go over to a line with the identity as it is now; the old line stays until the new one is up."""
        self._move.set()

    async def run(self) -> None:
        """Keep going until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(self._line.run())
            while True:
                await self._move.wait()
                self._move.clear()
                fresh = self._new_line()
                starting = tasks.create_task(fresh.run())
                await first_of(fresh.synced.wait(), self._move.wait())
                if fresh.synced.is_set():
                    self._line, running, starting = fresh, starting, running
                starting.cancel()  # the old line, or the new one where another move overtakes it

    def _new_line(self) -> Line:
        identity = self._identity.current
        return Line(
            channels={
                server: agent_channel(server, identity=identity, reconnect=self._reconnect)
                for server in self._servers or (identity.agent_api,)
            },
            new_stream=self._new_stream,
            reconnect=self._reconnect,
            clock=self._clock,
        )

    def _new_stream(self, on_synced: Callable[[], None]) -> SyncStream:
        def synced() -> None:
            on_synced()
            self.was_up = True
            self._heeding.on_up()

        return SyncStream(
            hello=self._hello,
            take=self._take,
            on_synced=synced,
            reports=self._telling.reports,
            bundle_sequence=lambda: self._identity.current.bundle.sequence or 0,
            progress=self._telling.progress,
            clock=self._clock,
        )

    async def _take(self, change: Change) -> None:
        """Publish a change, and keep a new bundle of our own: after a restart the server is known by it alone."""
        self._feed.publish(after(change, self._feed.current))
        old = self._identity.current.bundle
        for bundle in change.bundles:
            # One without authorities could not find the server again, so it is published and never kept.
            if bundle.trust_domain == old.trust_domain and bundle != old and bundle.x509_authorities:
                await self._identity.change(bundle=bundle)
                if bundle.x509_authorities != old.x509_authorities:
                    self.move()  # a channel keeps the roots that it was made with
                    self._heeding.on_roots()
        for order in change.orders:
            self._heeding.on_order(order)
