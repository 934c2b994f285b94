"""One session per Sync stream: what the agent was told, what it acknowledged, and what its proxies hold."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Final

from ca.agents.model import Agent
from ca.api.answers import bundle_message
from citadel._wire import agent_api_pb2 as pb
from citadel._wire import types_pb2
from citadel.bundle import TrustBundle
from citadel.entry import Entry
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.wire import entry_to_wire

_ENTRIES_PER_PART: Final = 500
_MOST_STREAMS: Final = 20_000


class AgentSession:
    """The state of one Sync stream; reads and writes happen in `ca.api.agent_api`."""

    def __init__(self, *, agent: Agent, connected_at: datetime) -> None:
        self.agent = agent
        self.connected_at = connected_at
        self.wake = asyncio.Event()
        self.is_ending = False
        self.version = ""
        self.acknowledged_revision = 0
        self.streams: dict[str, types_pb2.StreamReport] = {}
        self._told: dict[str, int] = {}
        self._told_bundles: dict[TrustDomain, TrustBundle] = {}
        self._first = True

    def take(self, message: pb.AgentMessage) -> None:
        """Take what the agent said."""
        match message.WhichOneof("kind"):
            case "hello":
                self.version = message.hello.agent_version[:100]
            case "acknowledge":
                self.acknowledged_revision = message.acknowledge.revision
            case "streams":
                self._take_streams(message.streams)

    def updates(
        self, *, entries: Mapping[str, Entry], bundles: Mapping[TrustDomain, TrustBundle], revision: int
    ) -> list[pb.Update]:
        """What the agent must be told now to know exactly `entries` and `bundles`; nothing if it does already."""
        changed = [entry for entry in entries.values() if self._told.get(entry.id) != entry.revision]
        removed = [entry_id for entry_id in self._told if entry_id not in entries]
        fresh = [bundle for domain, bundle in bundles.items() if self._told_bundles.get(domain) != bundle]
        if not (changed or removed or fresh or self._first):
            return []
        parts = [
            pb.Update(revision=revision, snapshot=self._first, entries=map(entry_to_wire, chunk), more=True)
            for chunk in _chunks(changed, _ENTRIES_PER_PART)
        ] or [pb.Update(revision=revision, snapshot=self._first)]
        parts[0].bundles.extend(map(bundle_message, fresh))
        parts[-1].removed_entry_ids.extend(() if self._first else removed)
        parts[-1].more = False
        self._told = {entry.id: entry.revision for entry in entries.values()}
        self._told_bundles = dict(bundles)
        self._first = False
        return parts

    def _take_streams(self, streams: pb.Streams) -> None:
        if streams.snapshot:
            self.streams.clear()
        for report in streams.reports:
            if report.closed:
                self.streams.pop(report.stream_id, None)
            elif report.stream_id in self.streams or len(self.streams) < _MOST_STREAMS:
                self.streams[report.stream_id] = report


class SessionBook:
    """The open sessions. An agent has two while it changes over to a renewed identity; the newest counts."""

    def __init__(self) -> None:
        self._sessions: list[AgentSession] = []

    def open(self, session: AgentSession) -> None:
        """Note a new session."""
        self._sessions.append(session)

    def close(self, session: AgentSession) -> None:
        """Forget an ended session."""
        self._sessions.remove(session)

    def newest(self) -> dict[SpiffeId, AgentSession]:
        """The newest session of each connected agent."""
        return {session.agent.spiffe_id: session for session in self._sessions}

    def end_all(self) -> None:
        """End every session, so that agents look for another server at once."""
        for session in self._sessions:
            session.is_ending = True
            session.wake.set()


def _chunks(items: Sequence[Entry], size: int) -> Iterator[list[Entry]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
