"""One session per Sync stream: what the agent was told, what it acknowledged, and what its proxies hold."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final

import structlog

from ca.agents.model import Agent
from ca.api.answers import bundle_message
from citadel._wire import agent_api_pb2 as pb
from citadel._wire import types_pb2
from citadel.bundle import TrustBundle
from citadel.entry import Entry
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.wire import entry_to_wire

_MEGABYTE: Final = 1024 * 1024
# What agents take in one message is bounded, and an entry can have hundreds of kilobytes.
_ENTRIES_PER_PART: Final = 500
_BYTES_PER_PART: Final = _MEGABYTE
# What one agent can make the server remember.
_MOST_STREAMS: Final = 20_000
_MOST_STREAM_BYTES: Final = 16 * _MEGABYTE
_MOST_SESSIONS_PER_AGENT: Final = 3

_log = structlog.get_logger(__name__)


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
        self._stream_bytes = 0
        self._is_over = False
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

    def end(self) -> None:
        """Let the stream end at its next turn."""
        self.is_ending = True
        self.wake.set()

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
            pb.Update(revision=revision, snapshot=self._first, entries=chunk, more=True)
            for chunk in _chunks(map(entry_to_wire, changed))
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
            self._stream_bytes = 0
        for report in streams.reports:
            known = self.streams.get(report.stream_id)
            known_bytes = known.ByteSize() if known is not None else 0
            if report.closed:
                self.streams.pop(report.stream_id, None)
                self._stream_bytes -= known_bytes
                continue
            total = self._stream_bytes - known_bytes + report.ByteSize()
            if (known is None and len(self.streams) >= _MOST_STREAMS) or total > _MOST_STREAM_BYTES:
                self._say_once_that_it_is_over()
                continue
            # A copy: a part of a message keeps the whole message in memory.
            kept = types_pb2.StreamReport()
            kept.CopyFrom(report)
            self.streams[report.stream_id] = kept
            self._stream_bytes = total

    def _say_once_that_it_is_over(self) -> None:
        if not self._is_over:
            self._is_over = True
            _log.warning("agent reports more than is remembered", agent=str(self.agent.spiffe_id))


class SessionBook:
    """The open sessions. An agent has two while it changes over to a renewed identity; the newest counts."""

    def __init__(self) -> None:
        self._sessions: list[AgentSession] = []

    def open(self, session: AgentSession) -> None:
        """Note a new session; the oldest of an agent that has too many are ended."""
        self._sessions.append(session)
        own = [other for other in self._sessions if other.agent.spiffe_id == session.agent.spiffe_id]
        for other in own[:-_MOST_SESSIONS_PER_AGENT]:
            other.end()

    def close(self, session: AgentSession) -> None:
        """Forget an ended session."""
        self._sessions.remove(session)

    def newest(self) -> dict[SpiffeId, AgentSession]:
        """The newest session of each connected agent."""
        return {session.agent.spiffe_id: session for session in self._sessions}

    def end_all(self) -> None:
        """End every session, so that agents look for another server at once."""
        for session in self._sessions:
            session.end()


def _chunks(entries: Iterable[types_pb2.Entry]) -> Iterator[list[types_pb2.Entry]]:
    chunk: list[types_pb2.Entry] = []
    size = 0
    for entry in entries:
        more = entry.ByteSize()
        if chunk and (len(chunk) >= _ENTRIES_PER_PART or size + more > _BYTES_PER_PART):
            yield chunk
            chunk, size = [], 0
        chunk.append(entry)
        size += more
    if chunk:
        yield chunk
