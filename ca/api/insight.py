"""`citadel.v1.Insight`: explanations, the proxies' streams, and certificates for administrators."""

from __future__ import annotations

from typing import Any, Final

from ca.api.answers import bundle_message
from ca.api.listeners import ActorOf
from ca.api.sessions import SessionBook
from ca.authority.manager import AuthorityManager
from ca.insight.gather import IdentityGatherer
from ca.insight.identity import judge_identity
from ca.insight.identity_facts import Grant, IdentityFacts, IssuedRecord, RefusalRecord
from ca.insight.minting import Minter, Wish
from ca.insight.proxies import Proxy, ProxyFilter, list_proxies
from ca.issuance.lifetime import LimitedBy
from citadel._wire import insight_pb2 as pb
from citadel._wire import insight_pb2_grpc
from citadel.errors import InvalidArgument, Reason
from citadel.spiffe import SpiffeId
from citadel.verdict import Verdict
from citadel.wire import entry_to_wire, from_duration, to_timestamp

_PAGE: Final = 100
_MOST_PAGE: Final = 1000


class InsightService(insight_pb2_grpc.InsightServicer):
    """Parses, asks those who know, answers."""

    def __init__(
        self,
        *,
        sessions: SessionBook,
        gatherer: IdentityGatherer,
        minter: Minter,
        authorities: AuthorityManager,
        actor_of: ActorOf,
    ) -> None:
        self._sessions = sessions
        self._gatherer = gatherer
        self._minter = minter
        self._authorities = authorities
        self._actor_of = actor_of

    async def ListProxies(self, request: pb.ListProxiesRequest, context: Any) -> pb.ListProxiesResponse:
        wanted = ProxyFilter(
            agent=request.agent_id, spiffe_id=request.spiffe_id, refused=request.refused, name=request.stream
        )
        size = min(request.page_size or _PAGE, _MOST_PAGE)
        after = _cursor_of(request.page_token)
        found = list_proxies(self._sessions.newest(), wanted, after=after, limit=size + 1)
        page = found[:size]
        token = "|".join(page[-1].cursor) if len(found) > size else ""
        return pb.ListProxiesResponse(proxies=map(_proxy, page), next_page_token=token)

    async def ExplainIdentity(self, request: pb.ExplainIdentityRequest, context: Any) -> pb.IdentityExplanation:
        facts, proxies = await self._gatherer.gather(SpiffeId.parse(request.spiffe_id))
        return _explanation(facts, proxies)

    async def MintX509Svid(self, request: pb.MintX509SvidRequest, context: Any) -> pb.MintX509SvidResponse:
        wish = Wish(
            spiffe_id=SpiffeId.parse(request.spiffe_id),
            csr=request.csr,
            ttl=from_duration(request.ttl) if request.HasField("ttl") else None,
            dns_names=tuple(request.dns_names),
            why=request.why,
        )
        svid = await self._minter.mint(wish, by=self._actor_of(context))
        asked = svid.limited_by is LimitedBy.ENTRY  # the terms were the administrator's own
        return pb.MintX509SvidResponse(
            chain=svid.chain_der,
            not_after=to_timestamp(svid.not_after),
            lifetime_limited_by="asked" if asked else svid.limited_by.value,
            bundle=bundle_message(self._authorities.bundle()),
        )


def verdict_message(verdict: Verdict) -> pb.Verdict:
    """A verdict on the wire."""
    return pb.Verdict(good=verdict.is_good, answer=verdict.answer, fix=verdict.fix)


def _explanation(facts: IdentityFacts, proxies: list[Proxy]) -> pb.IdentityExplanation:
    return pb.IdentityExplanation(
        spiffe_id=str(facts.spiffe_id),
        grants=[_grant(grant, facts) for grant in facts.grants],
        near_misses=map(str, facts.near_misses),
        last_issued=_issued(facts.last_issued) if facts.last_issued else None,
        last_refusal=_refusal(facts.last_refusal) if facts.last_refusal else None,
        proxies=map(_proxy, proxies),
        verdict=verdict_message(judge_identity(facts)),
    )


def _grant(grant: Grant, facts: IdentityFacts) -> pb.Grant:
    agents = [
        pb.GrantingAgent(
            spiffe_id=str(agent.spiffe_id),
            joined=agent.joined,
            banned=agent.banned,
            connected=agent.connected,
            acknowledged_revision=agent.acknowledged_revision,
            needed_revision=agent.needed_revision,
        )
        for agent in grant.agents
    ]
    return pb.Grant(entry=entry_to_wire(grant.entry), expired=grant.entry.has_expired(facts.now), agents=agents)


def _issued(record: IssuedRecord) -> pb.Issued:
    return pb.Issued(
        serial=record.serial,
        requested_by=record.requested_by,
        issued_at=to_timestamp(record.issued_at),
        not_after=to_timestamp(record.not_after),
    )


def _refusal(record: RefusalRecord) -> pb.RefusalRecord:
    return pb.RefusalRecord(
        at=to_timestamp(record.at),
        who=record.who,
        what=record.what,
        target=record.target,
        reason=record.reason,
        detail=record.detail,
    )


def _proxy(proxy: Proxy) -> pb.Proxy:
    return pb.Proxy(name=proxy.name, agent_id=str(proxy.agent), stream=proxy.report)


def _cursor_of(token: str) -> tuple[str, str]:
    agent, bar, stream = token.rpartition("|")
    if token and not bar:
        raise InvalidArgument(Reason.REQUEST_MALFORMED, "the page token is not one of this server")
    return (agent, stream)
