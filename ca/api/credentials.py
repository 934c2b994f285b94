"""WatchCredentials: what agents want for the gateways on their nodes, and what they are told of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Final, Protocol

import structlog

from ca.agents.model import Agent
from ca.agents.roster import AgentRoster
from ca.api.answers import refusal_of
from ca.entries.directory import EntryDirectory
from ca.kubernetes.gateways.cluster import Answer
from ca.patient_writer import PatientWriter
from citadel._wire import agent_api_pb2 as pb
from citadel.actor import Actor
from citadel.clock import Clock
from citadel.entry import Entry
from citadel.errors import CitadelError, PermissionDenied, Reason, ResourceExhausted, Unavailable
from citadel.in_flight import InFlight
from citadel.limiter import RateLimiter
from citadel.svid import X509Svid
from citadel.tally import Tally

MOST_WANTED: Final = 1024  # of one agent, as many as it takes from its gateways
_MOST_STREAMS: Final = 4  # of one agent: its line can move while an old one ends
# What an agent newly wants costs calls to the API server.
_NEW_PER_SECOND: Final = 50.0
_NEW_AT_ONCE: Final = 2.0 * MOST_WANTED
_LOOK_AGAIN: Final = timedelta(seconds=30)
_SOON: Final = timedelta(seconds=1)  # while something is not known yet
_METHOD: Final = "WatchCredentials"

_log = structlog.get_logger(__name__)

Write = Callable[[pb.CredentialUpdate], Awaitable[None]]


class Desk(Protocol):
    """Where credentials are asked for; `ca.kubernetes.gateways.desk` is the one there is."""

    def look(self, entry: Entry, name: str, holder: asyncio.Event) -> Answer | None:
        """What is known now, None while nothing is; sets `holder` at a change. Raises the refusal."""
        ...

    def settle(self, holder: asyncio.Event) -> None:
        """The holder wants what it looked at since it last settled, and nothing else."""
        ...


class CredentialStreams:
    """Serves each stream for as long as its agent may be spoken to, a bounded number of them."""

    def __init__(
        self, *, desk: Desk, roster: AgentRoster, directory: EntryDirectory, tally: Tally, clock: Clock
    ) -> None:
        self._desk = desk
        self._roster = roster
        self._directory = directory
        self._tally = tally
        self._clock = clock
        self._open = InFlight(most_of_one=_MOST_STREAMS, what="streams of credentials")
        self._new = RateLimiter(clock=clock, per_second=_NEW_PER_SECOND, burst=_NEW_AT_ONCE)
        self._streams: set[_Stream] = set()

    async def serve(
        self, agent: Agent, svid: X509Svid, requests: AsyncIterator[pb.WantedCredentials], write: Write
    ) -> None:
        """One stream, to its end. Raises why it ends where the agent has to know."""
        with self._open.one(agent.spiffe_id):
            self._new.admit(agent.spiffe_id)
            stream = _Stream(
                svid,
                desk=self._desk,
                roster=self._roster,
                directory=self._directory,
                new=self._new,
                tally=self._tally,
                clock=self._clock,
            )
            reading = asyncio.create_task(stream.read(requests))
            watch = self._directory.watch(stream.wake, agent)
            self._roster.watch(stream.wake, agent.spiffe_id)
            self._streams.add(stream)
            try:
                await stream.run(reading, write)
            finally:
                reading.cancel()
                self._streams.discard(stream)
                self._directory.unwatch(watch)
                self._roster.unwatch(stream.wake, agent.spiffe_id)
                self._desk.settle(stream.wake)

    def end_all(self) -> None:
        """End every stream, so that agents look for another server at once."""
        for stream in self._streams:
            stream.end()


class _Stream:
    """One agent's wants, and what it was told of each."""

    def __init__(
        self,
        svid: X509Svid,
        *,
        desk: Desk,
        roster: AgentRoster,
        directory: EntryDirectory,
        new: RateLimiter,
        tally: Tally,
        clock: Clock,
    ) -> None:
        self.wake = asyncio.Event()
        self._svid = svid
        self._desk = desk
        self._roster = roster
        self._directory = directory
        self._new = new
        self._tally = tally
        self._clock = clock
        self._is_ending = False
        self._is_waiting = False  # for what is not known yet
        self._told: dict[tuple[str, str], object] = {}  # what is wanted, by entry and name; None where nothing was said

    async def read(self, requests: AsyncIterator[pb.WantedCredentials]) -> None:
        """Take what the agent wants, until it says no more."""
        try:
            async for message in requests:
                self._want(message)
                self.wake.set()
        finally:
            self.wake.set()

    async def run(self, reading: asyncio.Task[None], write: Write) -> None:
        """Tell what is known of what is wanted, and each change."""

        def may_go_on() -> bool:
            if reading.done() and not reading.cancelled() and isinstance(reading.exception(), CitadelError):
                reading.result()
            self._roster.check(self._svid)
            return not reading.done() and not self._is_ending

        writer = PatientWriter(
            wake=self.wake, may_go_on=may_go_on, ends=lambda: self._svid.not_after, clock=self._clock
        )
        while may_go_on():
            self.wake.clear()
            for update in list(self._news(self._roster.check(self._svid))):
                if not await writer.written(write(update)):
                    return
            await writer.woken(until=self._clock.now() + (_SOON if self._is_waiting else _LOOK_AGAIN))

    def end(self) -> None:
        """Let it end soon."""
        self._is_ending = True
        self.wake.set()

    def _want(self, message: pb.WantedCredentials) -> None:
        wanted = dict.fromkeys((each.entry_id, each.name) for each in message.wanted)
        if len(wanted) > MOST_WANTED:
            raise ResourceExhausted(
                Reason.TOO_MANY_REQUESTS,
                f"{len(wanted)} credentials are wanted at once, and {MOST_WANTED} are the most",
                fix="let the gateways of this node ask for fewer",
            )
        if new := len(wanted.keys() - self._told.keys()):
            self._new.admit(self._svid.spiffe_id, count=new)
        self._told = {key: self._told.get(key) for key in wanted}

    def _news(self, agent: Agent) -> Iterator[pb.CredentialUpdate]:
        self._is_waiting = False
        for key, told in self._told.items():
            update = pb.CredentialUpdate(entry_id=key[0], name=key[1])
            try:
                says = self._look(agent, update)
            except CitadelError as error:
                says = _refused(update, error)
                if says != told:
                    self._tally.count_refused(_METHOD, error, by=Actor.identity(agent.spiffe_id))
            if says is not None and says != told:
                self._told[key] = says
                yield update
        self._desk.settle(self.wake)

    def _look(self, agent: Agent, update: pb.CredentialUpdate) -> object:
        """Fill in what is known, and what stands for it when it is compared; None while nothing is."""
        entry = self._directory.authorized(agent, update.entry_id, self._clock.now())
        answer = self._desk.look(entry, update.name, self.wake)
        if answer is None:
            self._is_waiting = True
            return None
        good, credential = update.good, answer.credential
        good.certificate_chain, good.private_key = credential.certificate_chain, credential.private_key
        good.trusted_ca, good.crl = credential.trusted_ca, credential.crl
        if answer.fault is not None:
            update.behind.CopyFrom(refusal_of(answer.fault))
        return credential, str(answer.fault)


def _refused(update: pb.CredentialUpdate, error: CitadelError) -> object:
    if isinstance(error, PermissionDenied):
        update.withdrawn.why.CopyFrom(refusal_of(error))
    else:
        update.refused.CopyFrom(refusal_of(error))
    # Why the API server is away is told in other words at each try.
    return type(error), error.reason, "" if isinstance(error, Unavailable) else str(error)
