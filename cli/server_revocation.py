"""Revocation, wired onto the server's parts."""

from __future__ import annotations

from dataclasses import dataclass

from ca.agents.administration import AgentAdministration
from ca.agents.roster import AgentRoster
from ca.api.listeners import ActorOf
from ca.api.revocations import RevocationService
from ca.api.sessions import SessionBook
from ca.authority.ports import KeyManager
from ca.revocation.bars import Bars
from ca.revocation.lists import RevocationLists
from ca.revocation.meaning import Meanings
from ca.revocation.revoker import CommitsUnderWay, Revoker
from ca.store.database import Database
from ca.store.revocations import SqlIssuedCertificates, SqlRevocations
from citadel.clock import Clock
from citadel.spiffe import TrustDomain


@dataclass(frozen=True, kw_only=True)
class RevocationAffairs:
    """What revokes, and what everybody asks who is revoked."""

    trust_domain: TrustDomain
    store: SqlRevocations
    bars: Bars
    lists: RevocationLists


def revocation_affairs(trust_domain: TrustDomain, *, database: Database, keys: KeyManager) -> RevocationAffairs:
    """The parts, not yet started."""
    store = SqlRevocations(database=database)
    return RevocationAffairs(
        trust_domain=trust_domain, store=store, bars=Bars(), lists=RevocationLists(keys=keys, store=store)
    )


def revoker(
    affairs: RevocationAffairs,
    *,
    database: Database,
    roster: AgentRoster,
    commits: CommitsUnderWay,
    clock: Clock,
) -> Revoker:
    """What revokes."""
    return Revoker(
        store=affairs.store,
        meanings=Meanings(
            trust_domain=affairs.trust_domain,
            certificates=SqlIssuedCertificates(database=database),
            is_agent=lambda spiffe_id: spiffe_id in roster.all(),
        ),
        commits=commits,
        agents=AgentAdministration(trust_domain=affairs.trust_domain, roster=roster),
        bars=affairs.bars,
        lists=affairs.lists,
        clock=clock,
    )


def revocation_service(
    affairs: RevocationAffairs,
    *,
    revoker: Revoker,
    sessions: SessionBook,
    roster: AgentRoster,
    clock: Clock,
    actor_of: ActorOf,
) -> RevocationService:
    """`citadel.v1.Revocations`."""
    return RevocationService(
        trust_domain=affairs.trust_domain,
        revoker=revoker,
        store=affairs.store,
        lists=affairs.lists,
        sessions=sessions,
        roster=roster,
        clock=clock,
        actor_of=actor_of,
    )
