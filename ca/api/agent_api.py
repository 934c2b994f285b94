"""`citadel.v1.AgentApi`: what agents ask over mutual TLS. Every method authenticates first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import structlog

from ca.agents.model import Agent
from ca.agents.roster import AgentRoster
from ca.api.answers import chain_der, svid_result
from ca.api.sessions import AgentSession, SessionBook
from ca.authority.manager import AuthorityManager
from ca.entries.directory import EntryDirectory
from ca.issuance.issuer import Issuer, SvidRequest
from citadel._wire import agent_api_pb2 as pb
from citadel._wire import agent_api_pb2_grpc
from citadel.clock import Clock
from citadel.errors import CitadelError, InvalidArgument, Reason, Unauthenticated
from citadel.svid import X509Svid
from citadel.tally import Tally

_log = structlog.get_logger(__name__)


class AgentService(agent_api_pb2_grpc.AgentApiServicer):
    """Pushes entries and bundles to agents, and signs for them."""

    def __init__(
        self,
        *,
        roster: AgentRoster,
        directory: EntryDirectory,
        authorities: AuthorityManager,
        issuer: Issuer,
        sessions: SessionBook,
        tally: Tally,
        clock: Clock,
    ) -> None:
        self._roster = roster
        self._directory = directory
        self._authorities = authorities
        self._issuer = issuer
        self._sessions = sessions
        self._tally = tally
        self._clock = clock

    async def SignX509Svids(self, request: pb.SignX509SvidsRequest, context: Any) -> pb.SignX509SvidsResponse:
        agent, _ = await self._authenticate(context)
        items = [SvidRequest(entry_id=item.entry_id, csr=item.csr) for item in request.requests]
        results = await self._issuer.issue(agent, items)
        for result in results:
            if isinstance(result, CitadelError):
                self._tally.count_refused(f"SignX509Svids for {agent.spiffe_id}", result)
            else:
                self._tally.count_issued()
        return pb.SignX509SvidsResponse(results=map(svid_result, results))

    async def RenewAgent(self, request: pb.RenewAgentRequest, context: Any) -> pb.RenewAgentResponse:
        _, svid = await self._authenticate(context)
        renewed = await self._roster.renew(svid, request.csr, issuer=self._issuer)
        self._tally.count_issued()
        return pb.RenewAgentResponse(chain=chain_der(renewed.chain))

    async def Sync(self, request_iterator: AsyncIterator[pb.AgentMessage], context: Any) -> AsyncIterator[pb.Update]:
        agent, svid = await self._authenticate(context)
        session = AgentSession(agent=agent, connected_at=self._clock.now())
        hello = await anext(aiter(request_iterator), None)
        if hello is None or hello.WhichOneof("kind") != "hello":
            raise InvalidArgument(Reason.REQUEST_MALFORMED, "the first message of a stream must be hello")
        session.take(hello)
        reader = asyncio.create_task(_read(request_iterator, session))
        self._directory.watch(session.wake, agent)
        self._roster.watch(session.wake, agent.spiffe_id)
        self._sessions.open(session)
        _log.info("agent connected", agent=str(agent.spiffe_id), version=session.version)
        try:
            async for update in self._push(session, svid, reader):
                yield update
        finally:
            reader.cancel()
            self._directory.unwatch(session.wake)
            self._roster.unwatch(session.wake)
            self._sessions.close(session)
            _log.info("agent disconnected", agent=str(agent.spiffe_id))

    async def _push(
        self, session: AgentSession, svid: X509Svid, reader: asyncio.Task[None]
    ) -> AsyncIterator[pb.Update]:
        while not (reader.done() or session.is_ending):
            session.wake.clear()
            agent, now, own = self._roster.check(svid), self._clock.now(), self._authorities.bundle()
            if agent.selectors != session.agent.selectors:
                return  # it was joined anew with other facts about its node: begin with a new snapshot
            for update in session.updates(
                entries=self._directory.for_agent(agent, now),
                bundles={own.trust_domain: own},
                revision=self._directory.revision,
            ):
                yield update
            changes_at = min(svid.not_after, self._directory.next_expiry(agent, now) or svid.not_after)
            await _woken(session.wake, seconds=(changes_at - now).total_seconds())

    async def _authenticate(self, context: Any) -> tuple[Agent, X509Svid]:
        certificates = context.auth_context().get("x509_pem_cert", ())
        if not certificates:
            raise Unauthenticated(Reason.AGENT_SVID_REFUSED, "this listener needs a client certificate")
        return await self._roster.authenticate(certificates[0])


async def _read(messages: AsyncIterator[pb.AgentMessage], session: AgentSession) -> None:
    try:
        async for message in messages:
            session.take(message)
    finally:
        session.wake.set()  # the stream ended: let the writing side see it


async def _woken(wake: asyncio.Event, *, seconds: float) -> None:
    """Wait for news or for `seconds`, whichever comes first."""
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await wake.wait()
    except TimeoutError:
        return
