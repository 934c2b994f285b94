"""`citadel.v1.AgentApi`: what agents ask over mutual TLS. Every method authenticates first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import structlog

from ca.agents.model import Agent
from ca.agents.roster import AgentRoster
from ca.agents.sightings import Sightings
from ca.api.answers import jwt_results, svid_results
from ca.api.credentials import CredentialStreams
from ca.api.gates import leaf_pem
from ca.api.sessions import AgentSession, SessionBook
from ca.api.sync import Sources, SyncPush
from ca.issuance.issuer import Issuer, SvidRequest
from ca.issuance.jwt import JwtIssuer, JwtRequest
from citadel._wire import agent_api_pb2 as pb
from citadel._wire import agent_api_pb2_grpc
from citadel.actor import Actor
from citadel.clock import Clock
from citadel.errors import CitadelError, InvalidArgument, Reason
from citadel.svid import X509Svid
from citadel.tally import Tally

_log = structlog.get_logger(__name__)


class AgentService(agent_api_pb2_grpc.AgentApiServicer):
    """Pushes entries and bundles to agents, and signs for them."""

    def __init__(  # noqa: PLR0913 - each part is given, none is made in secret
        self,
        *,
        roster: AgentRoster,
        sources: Sources,
        issuer: Issuer,
        jwt_issuer: JwtIssuer,
        sessions: SessionBook,
        sightings: Sightings,
        credentials: CredentialStreams,
        tally: Tally,
        clock: Clock,
    ) -> None:
        self._roster = roster
        self._sources = sources
        self._issuer = issuer
        self._jwt_issuer = jwt_issuer
        self._sessions = sessions
        self._sightings = sightings
        self._credentials = credentials
        self._tally = tally
        self._clock = clock

    async def SignX509Svids(self, request: pb.SignX509SvidsRequest, context: Any) -> pb.SignX509SvidsResponse:
        agent, _ = await self._authenticate(context)
        self._issuer.check_size(len(request.requests))
        items = [SvidRequest(entry_id=item.entry_id, csr=item.csr) for item in request.requests]
        results = await self._issuer.issue(agent, items)
        self._roster.refuse_shut_out(agent.spiffe_id)  # a ban that came during the commit
        refusals = [result for result in results if isinstance(result, CitadelError)]
        for refusal in refusals:
            self._tally.count_refused("SignX509Svids", refusal, by=Actor.identity(agent.spiffe_id))
        self._tally.count_issued(len(results) - len(refusals))
        return svid_results(results)

    async def SignJwtSvids(self, request: pb.SignJwtSvidsRequest, context: Any) -> pb.SignJwtSvidsResponse:
        agent, _ = await self._authenticate(context)
        self._jwt_issuer.check_size(len(request.requests))
        items = [JwtRequest(entry_id=item.entry_id, audiences=tuple(item.audience)) for item in request.requests]
        results = await self._jwt_issuer.issue(agent, items)
        self._roster.refuse_shut_out(agent.spiffe_id)  # a ban that came while it was made durable
        for refusal in results:
            if isinstance(refusal, CitadelError):
                self._tally.count_refused("SignJwtSvids", refusal, by=Actor.identity(agent.spiffe_id))
        return jwt_results(results)

    async def WatchCredentials(
        self, request_iterator: AsyncIterator[pb.WantedCredentials], context: Any
    ) -> AsyncIterator[pb.CredentialUpdate]:
        agent, svid = await self._authenticate(context)
        await self._credentials.serve(agent, svid, request_iterator, context.write)
        none: tuple[pb.CredentialUpdate, ...] = ()  # as of `Sync`
        for update in none:
            yield update

    async def RenewAgent(self, request: pb.RenewAgentRequest, context: Any) -> pb.RenewAgentResponse:
        _, svid = await self._authenticate(context)
        renewed = await self._roster.renew(svid, request.csr, issuer=self._issuer)
        self._tally.count_issued()
        return pb.RenewAgentResponse(chain=renewed.chain_der)

    async def Sync(self, request_iterator: AsyncIterator[pb.AgentMessage], context: Any) -> AsyncIterator[pb.Update]:
        agent, svid = await self._authenticate(context)
        with self._sessions.silent(agent.spiffe_id):
            hello = await self._hello(request_iterator)
        session = AgentSession(
            agent=agent,
            connected_at=self._clock.now(),
            connected_monotonic=self._clock.monotonic(),
            own_issuer=svid.issuer_key_id,
            own_ends=svid.not_after,
        )
        session.take(hello, at=self._clock.monotonic())
        reader = asyncio.create_task(_read(request_iterator, session, self._clock))
        watch = self._sources.directory.watch(session.wake, agent)
        self._roster.watch(session.wake, agent.spiffe_id)
        self._sessions.open(session)
        self._sightings.note(agent.spiffe_id)
        _log.info("agent connected", agent=str(agent.spiffe_id), version=session.version)
        push = SyncPush(
            session=session,
            svid=svid,
            watch=watch,
            reader=reader,
            roster=self._roster,
            sources=self._sources,
            clock=self._clock,
        )
        try:
            await push.run(context.write)
        finally:
            reader.cancel()
            self._sources.directory.unwatch(watch)
            self._roster.unwatch(session.wake, agent.spiffe_id)
            self._sessions.close(session)
            self._sightings.note(agent.spiffe_id)
            _log.info("agent disconnected", agent=str(agent.spiffe_id))
        # All was said by `push`: a `yield` could not be given up while the agent does not read.
        none: tuple[pb.Update, ...] = ()
        for update in none:
            yield update

    async def _hello(self, messages: AsyncIterator[pb.AgentMessage]) -> pb.AgentMessage:
        try:
            async with asyncio.timeout(self._sessions.hello_timeout.total_seconds()):
                hello = await anext(aiter(messages), None)
        except TimeoutError:
            hello = None
        if hello is None or hello.WhichOneof("kind") != "hello":
            raise InvalidArgument(Reason.REQUEST_MALFORMED, "a stream must begin with hello, and soon")
        return hello

    async def _authenticate(self, context: Any) -> tuple[Agent, X509Svid]:
        return await self._roster.authenticate(leaf_pem(context))


async def _read(messages: AsyncIterator[pb.AgentMessage], session: AgentSession, clock: Clock) -> None:
    try:
        async for message in messages:
            session.take(message, at=clock.monotonic())
    finally:
        session.wake.set()  # the stream ended: let the writing side see it
