"""`citadel.v1.Revocations`: revocation, as administrators carry it out. Served on the local socket only."""

from __future__ import annotations

from typing import Any, Final

from cryptography.x509 import ReasonFlags

from ca.agents.roster import AgentRoster
from ca.api.listeners import ActorOf
from ca.api.sessions import SessionBook
from ca.insight.proxies import agent_name
from ca.revocation.force import Force, force_of
from ca.revocation.lists import RevocationLists
from ca.revocation.meaning import Wish
from ca.revocation.model import Revocation, RevocationKind
from ca.revocation.ports import RevocationStore
from ca.revocation.revoker import Revoker
from citadel._wire import revocation_pb2 as pb
from citadel._wire import revocation_pb2_grpc
from citadel.clock import Clock
from citadel.errors import InvalidArgument, Reason
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.wire import to_timestamp

_PATIENCE_SECONDS: Final = 3.0  # a proxy that is well takes what it is sent within milliseconds
_LOOK_SECONDS: Final = 0.02
_MOST_NAMED: Final = 50
_MOST_REVOCATIONS: Final = 1000
# For an authority and for lists of changes, not for a leaf that is revoked for good.
_NOT_FOR_LEAVES: Final = frozenset(
    {
        ReasonFlags.ca_compromise,
        ReasonFlags.aa_compromise,
        ReasonFlags.certificate_hold,
        ReasonFlags.remove_from_crl,
    }
)
_KINDS: Final = {
    RevocationKind.CERTIFICATE: pb.Revocation.CERTIFICATE,
    RevocationKind.IDENTITY: pb.Revocation.IDENTITY,
    RevocationKind.AGENT: pb.Revocation.AGENT,
}


class RevocationService(revocation_pb2_grpc.RevocationsServicer):
    """Parses, asks those who know, answers."""

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        revoker: Revoker,
        store: RevocationStore,
        lists: RevocationLists,
        sessions: SessionBook,
        roster: AgentRoster,
        clock: Clock,
        actor_of: ActorOf,
    ) -> None:
        self._trust_domain = trust_domain
        self._revoker = revoker
        self._store = store
        self._lists = lists
        self._sessions = sessions
        self._roster = roster
        self._clock = clock
        self._actor_of = actor_of

    async def Revoke(self, request: pb.RevokeRequest, context: Any) -> pb.RevokeResponse:
        wish = Wish(target=request.target, reason=request.reason, code=_code(request.code))
        outcome = await self._revoker.revoke(wish, by=self._actor_of(context))
        force = await self._wait_for_force()
        joined = [agent for agent in self._roster.all().values() if not agent.banned]
        connected = self._sessions.newest()
        return pb.RevokeResponse(
            revocation=self._message(outcome.revocation),
            was_revoked=outcome.was_revoked,
            is_published=not self._trouble,
            trouble=self._trouble,
            proxies=force.proxies,
            proxies_in_force=force.in_force,
            not_in_force=force.without[:_MOST_NAMED],
            agents_away=sum(agent.spiffe_id not in connected for agent in joined),
        )

    async def ListRevocations(self, request: pb.ListRevocationsRequest, context: Any) -> pb.ListRevocationsResponse:
        newest = await self._store.newest(min(request.limit or _MOST_REVOCATIONS, _MOST_REVOCATIONS))
        return pb.ListRevocationsResponse(revocations=map(self._message, newest))

    async def LiftRevocation(self, request: pb.LiftRevocationRequest, context: Any) -> pb.Revocation:
        lifted = await self._revoker.lift(request.id, reason=request.reason, by=self._actor_of(context))
        return self._message(lifted)

    @property
    def _trouble(self) -> str:
        return self._lists.trouble or self._lists.behind

    async def _wait_for_force(self) -> Force:
        ends_at = self._clock.monotonic() + _PATIENCE_SECONDS
        while True:
            force = self._force()
            is_hopeless = bool(self._trouble)
            if not force.without or is_hopeless or self._clock.monotonic() >= ends_at:
                return force
            await self._clock.sleep(_LOOK_SECONDS)

    def _force(self) -> Force:
        sessions = self._sessions.newest().items()
        return force_of(
            {agent_name(agent): session.streams.values() for agent, session in sessions},
            version=self._lists.current.version,
            trust_domain=self._trust_domain.name,
        )

    def _message(self, revocation: Revocation) -> pb.Revocation:
        return pb.Revocation(
            id=revocation.id,
            kind=_KINDS[revocation.kind],
            target=revocation.target,
            reason=revocation.reason,
            code=revocation.code.value,
            revoked_at=to_timestamp(revocation.revoked_at),
            revoked_by=revocation.revoked_by,
            certificates=revocation.certificates,
            bars=self._bars(revocation),
        )

    def _bars(self, revocation: Revocation) -> str:
        if not revocation.bars_anything:
            return ""
        match revocation.kind:
            case RevocationKind.CERTIFICATE:
                return f"the entry {revocation.entry_id} at {revocation.agent}"
            case RevocationKind.IDENTITY:
                return f"every entry of {revocation.target}"
            case RevocationKind.AGENT if self._roster.is_banned(SpiffeId.parse(revocation.target)):
                return f"the agent {revocation.target}, which is banned, and all its workloads"
            case RevocationKind.AGENT:
                return ""  # it was unbanned since, or is not joined any more


def _code(name: str) -> ReasonFlags:
    try:
        code = ReasonFlags(name or ReasonFlags.unspecified.value)
    except ValueError:
        code = ReasonFlags.ca_compromise
    if code in _NOT_FOR_LEAVES:
        good = ", ".join(flag.value for flag in ReasonFlags if flag not in _NOT_FOR_LEAVES)
        raise InvalidArgument(Reason.REQUEST_MALFORMED, f"{name!r} is no reason code here, use one of {good}")
    return code
