"""The line to the parent: kept up for ever, moved when this server's identity there or the parent's bundle changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from grpc import aio

from ca.upstream.citadel.follow import FollowStream, Reports, Take
from ca.upstream.citadel.identity import ParentIdentities
from citadel._wire import clusters_pb2 as pb
from citadel._wire import clusters_pb2_grpc
from citadel.call import answer_of
from citadel.clock import Clock
from citadel.config.types import HostPort
from citadel.errors import CitadelError, Reason, ResourceExhausted, Unavailable
from citadel.line import Line, MovingLine
from citadel.server_channel import mutual_channel

ANSWER_SECONDS: Final = 5.0  # what waits for a new issuing authority holds up changes of trust as well


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentPace:
    """How soon the parent, and its agent, are tried again."""

    initial: timedelta = timedelta(milliseconds=200)
    maximum: timedelta = timedelta(seconds=5)


class Parent:
    """Asks the parent, and follows it for as long as `run` runs. `since` is since when it is up, or is not."""

    def __init__(
        self,
        *,
        address: HostPort,
        identities: ParentIdentities,
        take: Take,
        known_roots: Callable[[], frozenset[x509.Certificate]],
        pace: ParentPace,
        clock: Clock,
    ) -> None:
        """`known_roots` are those by which it signs or has signed, as it said, and which it does not take back."""
        self.address = address
        self.identities = identities
        self._take_update = take
        self._known_roots = known_roots
        self._believed: frozenset[x509.Certificate] = frozenset()  # by the line that was made last
        self._pace = pace
        self._clock = clock
        self._reports: Reports | None = None
        self._lines: MovingLine[clusters_pb2_grpc.ClustersAsyncStub] | None = None
        self._streams_up = 0
        self._watchers: list[Callable[[], None]] = []
        self.since: datetime = clock.now()
        self.is_heard = False  # once and for all, when it has said what is to be trusted

    def watch(self, callback: Callable[[], None]) -> None:
        """Call `callback` when it comes up or goes down."""
        self._watchers.append(callback)

    @property
    def is_up(self) -> bool:
        """Whether it would tell of changes now."""
        return self._streams_up > 0

    def trouble(self) -> CitadelError | None:
        """Why it is not up."""
        if self.is_up:
            return None
        now, own = self._clock.now(), self.identities
        if own.current is None:
            return own.trouble or Unavailable(
                Reason.UPSTREAM_UNAVAILABLE, "the agent of the parent has given this server no SVID yet"
            )
        if own.current.svid.not_after <= now:
            return own.trouble or Unavailable(
                Reason.UPSTREAM_UNAVAILABLE, "the SVID by which the parent knows this server has ended"
            )
        error = self._lines.current.trouble if self._lines is not None else None
        if error is None:
            return Unavailable(Reason.UPSTREAM_UNAVAILABLE, f"the parent at {self.address} has not answered yet")
        return as_upstream(error, self.address)

    def misfit(self) -> CitadelError | None:
        """Why it is no parent for this server: another trust domain's."""
        trouble = self.identities.trouble
        return trouble if trouble is not None and trouble.reason is Reason.UPSTREAM_INVALID else None

    async def run(self, reports: Reports) -> None:
        """Keep an identity and a line with it, until cancelled."""
        self._reports = reports
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.identities.run())
            while self.identities.current is None:
                await self.identities.news.wait()
                self.identities.news.clear()
            self._lines = MovingLine(new_line=self._new_line)
            self.identities.watch(self._lines.move)
            await self._lines.run()

    async def sign_issuer(self, request: pb.SignIssuerRequest) -> pb.SignIssuerResponse:
        """The parent's answer. Raises its refusal, or `Unavailable` (`upstream_unavailable`)."""
        if (trouble := self.trouble()) is not None or self._lines is None:
            raise Unavailable(
                Reason.UPSTREAM_UNAVAILABLE, trouble.message if trouble else "the parent has not answered yet"
            )
        try:
            return await answer_of(self._lines.current.api.SignIssuer(request, timeout=ANSWER_SECONDS))
        except CitadelError as error:
            raise as_upstream(error, self.address) from error

    def _new_line(self) -> Line[clusters_pb2_grpc.ClustersAsyncStub]:
        identity = self.identities.current
        assert identity is not None  # noqa: S101 - for the type checker: no line is made before
        roots = identity.believed(self._known_roots())
        self._believed = frozenset(roots)
        channel = mutual_channel(
            self.address,
            roots_pem=b"".join(root.public_bytes(Encoding.PEM) for root in roots),
            key_pem=identity.key_pem,
            chain_pem=identity.svid.chain_pem,
            reconnect=self._pace,
        )
        return Line(
            channels={self.address: channel},
            api=_api,
            new_stream=self._new_stream,
            reconnect=self._pace,
            clock=self._clock,
            peer="parent",
        )

    def _new_stream(self, on_synced: Callable[[], None]) -> FollowStream:
        assert self._reports is not None  # noqa: S101 - as above

        def synced() -> None:
            on_synced()
            self._count(1)
            self.is_heard = True

        return FollowStream(
            take=self._take,
            reports=self._reports,
            on_synced=synced,
            on_end=lambda: self._count(-1),
            clock=self._clock,
        )

    async def _take(self, update: pb.ClusterUpdate) -> None:
        await self._take_update(update)
        identity = self.identities.current
        if identity is None or self._lines is None:
            return
        if self._believed != frozenset(identity.believed(self._known_roots())):
            self._lines.move()  # a channel keeps the roots that it was made with

    def _count(self, change: int) -> None:
        """Two streams are up while the line moves."""
        was_up = self.is_up
        self._streams_up += change
        if self.is_up != was_up:
            self.since = self._clock.now()
            for callback in self._watchers:
                callback()


def as_upstream(error: CitadelError, address: HostPort) -> CitadelError:
    """What keeps us from the parent, as this server says it. What passes is waited for."""
    if not isinstance(error, Unavailable | ResourceExhausted):
        return error
    if error.reason is not Reason.SERVER_UNREACHABLE:
        return Unavailable(Reason.UPSTREAM_UNAVAILABLE, f"the parent at {address} says: {error.message}", fix=error.fix)
    return Unavailable(Reason.UPSTREAM_UNAVAILABLE, f"the parent at {address} cannot be reached: {error.message}")


def _api(channel: aio.Channel) -> clusters_pb2_grpc.ClustersAsyncStub:
    return clusters_pb2_grpc.ClustersStub(channel)
