"""The open Follow streams: what each child was told, and what it said last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime

from ca.clusters.callers import Child
from ca.clusters.model import Said
from citadel._wire import clusters_pb2 as pb
from citadel.spiffe import SpiffeId


class ChildSession:
    """The state of one Follow stream; reads and writes happen in `ca.api.clusters`."""

    def __init__(self, *, child: Child, connected_at: datetime) -> None:
        self.child = child
        self.connected_at = connected_at
        self.wake = asyncio.Event()
        self.is_ending = False
        self.report: pb.ClusterReport | None = None
        self.said: Said | None = None  # what is believed of that
        self.said_before: Said | None = None  # and of the last report on the stream that this one ends
        self._told_trust: pb.ClusterTrust | None = None
        self._told_everywhere: pb.KnownVersions | None = None

    def acknowledges(self, version: str, *, is_jwt: bool) -> bool:
        """Whether everybody in its cluster, and below, has acknowledged this version of one half of the bundle."""
        if self.report is None:
            return False
        acknowledged = self.report.acknowledged
        return (acknowledged.jwt if is_jwt else acknowledged.x509) == version

    def end(self) -> None:
        """Let the stream end at its next turn."""
        self.is_ending = True
        self.wake.set()

    def updates(self, trust: pb.ClusterTrust, everywhere: pb.KnownVersions) -> Iterator[pb.ClusterUpdate]:
        """What the child must be told so that it knows this; nothing if it does already."""
        if trust is not self._told_trust:
            self._told_trust = trust
            yield pb.ClusterUpdate(trust=trust)
        if everywhere != self._told_everywhere:
            self._told_everywhere = everywhere
            yield pb.ClusterUpdate(everywhere=everywhere)


class ChildBook:
    """The open streams by child, of which the newest counts: it ends the ones before."""

    def __init__(self) -> None:
        self._sessions: dict[SpiffeId, ChildSession] = {}
        self._left_at: dict[SpiffeId, datetime] = {}
        self._watchers: list[Callable[[], None]] = []

    def watch(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever a child comes or goes from now on."""
        self._watchers.append(callback)

    def open(self, session: ChildSession) -> None:
        """Note a new stream."""
        before = self._sessions.get(session.child.spiffe_id)
        self._sessions[session.child.spiffe_id] = session
        if before is not None:
            session.said_before = before.said or before.said_before
            before.end()
        self._tell()

    def close(self, session: ChildSession, *, at: datetime) -> None:
        """Forget a stream that has ended."""
        if self._sessions.get(session.child.spiffe_id) is session:
            del self._sessions[session.child.spiffe_id]
            self._left_at[session.child.spiffe_id] = at
        self._tell()

    def connected(self) -> Mapping[SpiffeId, ChildSession]:
        """The stream of each connected child."""
        return self._sessions

    def left_at(self, child: SpiffeId) -> datetime | None:
        """When a child that is away left; None where it has not been here since the start."""
        return self._left_at.get(child)

    def wake_all(self) -> None:
        """Let every stream look for what it has to say."""
        for session in self._sessions.values():
            session.wake.set()

    def end_all(self) -> None:
        """End every stream, so that children look for another server at once."""
        for session in self._sessions.values():
            session.end()

    def _tell(self) -> None:
        for callback in self._watchers:
            callback()
