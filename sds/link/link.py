"""The agent's link to its server: one line at a time, kept up for ever, moved when the agent's identity changes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from grpc import aio

from citadel._wire import agent_api_pb2 as pb
from citadel._wire import agent_api_pb2_grpc
from citadel.clock import Clock
from citadel.errors import CitadelError, InvalidArgument
from citadel.line import Line, MovingLine
from citadel.revocation import RevocationSet
from citadel.revocation_reading import read_revocations
from sds.holdings import Holdings, HoldingsFeed
from sds.keep.orders import RenewOrder
from sds.link.identity import OwnIdentity
from sds.link.servers import Servers
from sds.link.sync import InForce, RenewProgress, StreamReports, SyncStream
from sds.link.updates import Change, after
from sds.settings import ReconnectSettings

_log = structlog.get_logger(__name__)


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
    on_revocations: Callable[[], Awaitable[None]]  # others are revoked; acknowledged once this is done
    on_roots: Callable[[], None]  # the roots of the own trust domain have changed


class Link:
    """Fills `feed` with what the server tells, for as long as `run` runs."""

    def __init__(
        self,
        *,
        identity: OwnIdentity,
        servers: Servers,
        hello: Callable[[], pb.Hello],
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
        self._turn = asyncio.Lock()
        self._lines = MovingLine(new_line=self._new_line)
        self.was_up = False  # whether the server was ever heard

    @property
    def is_up(self) -> bool:
        """Whether the server has told all it knows, and would tell of changes now."""
        return self._lines.current.is_up

    @property
    def trouble(self) -> CitadelError | None:
        """Why it is not, for the identity as it is now; None before its first try has ended."""
        return self._lines.newest.trouble

    @property
    def api(self) -> agent_api_pb2_grpc.AgentApiAsyncStub:
        """The server, on the line that is in use. Ask anew for each call."""
        return self._lines.current.api

    def move(self) -> None:
        """Go over to a line with the identity as it is now; the old line stays until the new one is up."""
        self._lines.move()

    async def run(self) -> None:
        """Keep going until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._lines.run())
            tasks.create_task(self._servers.run(is_found=self._is_settled, on_news=self.move))

    def _is_settled(self) -> bool:
        return self.is_up and not self._lines.is_moving

    def _new_line(self) -> Line[agent_api_pb2_grpc.AgentApiAsyncStub]:
        return Line(
            channels=self._servers.channels(self._reconnect),
            api=_api,
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
            in_force=lambda: InForce(
                bundle_sequence=self._identity.current.bundle.sequence or 0,
                revocation_version=self._feed.current.revocations.version,
            ),
            progress=self._telling.progress,
            clock=self._clock,
        )

    async def _take(self, change: Change) -> None:
        """Publish a change, and keep what it says of revocations and a new bundle of our own.

        After a restart these are what is known before the server is heard, and the server is known by the bundle alone.
        """
        async with self._turn:  # two lines can be up, and what came first must not be taken last
            revocations = await self._read(change)
            before, taken = self._feed.current, after(change, self._feed.current, revocations)
            self._feed.publish(taken)
        if revocations is not None:
            _log_revoked(before, taken)
        if revocations is not None or change.revoked_identities is not None:
            await self._heeding.on_revocations()
        old = self._identity.current.bundle
        for bundle in map(change.for_the_agent, change.bundles):
            # One without authorities could not find the server again, so it is published and never kept.
            if bundle.trust_domain == old.trust_domain and bundle != old and bundle.x509_authorities:
                await self._identity.change(bundle=bundle)
                if bundle.x509_authorities != old.x509_authorities:
                    self.move()  # a channel keeps the roots that it was made with
                    self._heeding.on_roots()
        for order in change.orders:
            self._heeding.on_order(order)

    async def _read(self, change: Change) -> RevocationSet | None:
        """The revocation lists of a change; None where it has none, or has some that cannot be relied on."""
        if change.revocations is None:
            return None
        own = self._identity.current.bundle.trust_domain
        bundle = after(change, self._feed.current).bundles.get(own)
        try:
            return await asyncio.to_thread(read_revocations, change.revocations, bundle=bundle, now=self._clock.now())
        except InvalidArgument as error:
            _log.error(
                "the server sent revocation lists that cannot be relied on; those before stay in force",
                reason=error.reason,
                error=str(error),
            )
            return None


def _api(channel: aio.Channel) -> agent_api_pb2_grpc.AgentApiAsyncStub:
    return agent_api_pb2_grpc.AgentApiStub(channel)


def _log_revoked(before: Holdings, taken: Holdings) -> None:
    for held in before.svids.values():
        if taken.revocations.holds(held.svid):
            _log.warning("svid was revoked", spiffe_id=str(held.svid.spiffe_id), serial=held.svid.serial)
