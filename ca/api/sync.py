"""The writing side of one Sync stream, which never waits for an agent that does not read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from google.protobuf.message import DecodeError

from ca.agents.roster import AgentRoster
from ca.api.foreign import ForeignMessages
from ca.api.sessions import AgentSession
from ca.authority.manager import AuthorityManager
from ca.entries.directory import EntryDirectory
from ca.entries.watch import EntryWatch
from ca.patient_writer import PatientWriter
from citadel._wire import agent_api_pb2 as pb
from citadel._wire import types_pb2
from citadel.clock import Clock
from citadel.errors import CitadelError
from citadel.svid import X509Svid

Write = Callable[[pb.Update], Awaitable[None]]


class Orders(Protocol):
    """What agents must renew ahead of time."""

    def of(self, session: AgentSession, now: datetime) -> Sequence[pb.RenewOrder]:
        """The orders for this agent as they are now; it is told each once."""
        ...


class Lists(Protocol):
    """What proxies check against."""

    message: types_pb2.RevocationSet  # another object whenever it is another set


class Revoked(Protocol):
    """Whom agents refuse, whatever they show."""

    @property
    def messages(self) -> Sequence[types_pb2.RevokedIdentities]:
        """The set in parts; another object whenever it is another set."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where it stands what agents are told."""

    directory: EntryDirectory
    authorities: AuthorityManager
    foreign: ForeignMessages
    lists: Lists
    revoked: Revoked
    orders: Orders


class SyncPush:
    """Tells one agent what it may know, for as long as it may hear it."""

    def __init__(
        self,
        *,
        session: AgentSession,
        svid: X509Svid,
        watch: EntryWatch,
        reader: asyncio.Task[None],
        roster: AgentRoster,
        sources: Sources,
        clock: Clock,
    ) -> None:
        self._session = session
        self._svid = svid
        self._watch = watch
        self._reader = reader
        self._roster = roster
        self._sources = sources
        self._clock = clock
        self._writer = PatientWriter(
            wake=session.wake, may_go_on=self._may_go_on, ends=lambda: svid.not_after, clock=clock
        )

    async def run(self, write: Write) -> None:
        """Push until the stream is over. Raises as `AgentRoster.check` once the agent may not go on."""
        wake = self._session.wake
        while self._may_go_on():
            wake.clear()
            now, own = self._clock.now(), self._sources.authorities.bundle()
            for update in self._session.updates(
                news=self._sources.directory.news(self._watch, now),
                bundles={own.trust_domain: own},
                for_workloads_alone=self._sources.authorities.for_workloads_alone(),
                foreign=self._sources.foreign,
                revision=self._sources.directory.revision,
                lists=self._sources.lists.message,
                revoked=self._sources.revoked.messages,
                orders=self._sources.orders.of(self._session, now),
            ):
                if not await self._writer.written(write(update)):
                    return
            await self._writer.woken(until=self._watch.changes_at or self._svid.not_after)

    def _may_go_on(self) -> bool:
        if self._reader.done():
            refusal = self._reader.exception()
            if isinstance(refusal, CitadelError | DecodeError):  # what it said is the end of it
                raise refusal
            return False
        if self._session.is_ending:
            return False
        agent = self._roster.check(self._svid)
        # Joined anew with other facts about its node, it begins with a new snapshot.
        return agent.selectors == self._session.agent.selectors
