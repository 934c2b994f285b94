"""Revocation, wired onto the server's parts."""

from __future__ import annotations

from dataclasses import dataclass

from ca.agents.administration import AgentAdministration
from ca.agents.roster import AgentRoster
from ca.api.listeners import ActorOf
from ca.api.revocations import RevocationService
from ca.api.sessions import SessionBook
from ca.authority.ports import KeyManager
from ca.insight.condition import revocation_check
from ca.issuance.ledger import CommitsUnderWay
from ca.revocation.bars import Bars
from ca.revocation.lists import RevocationLists
from ca.revocation.meaning import Meanings
from ca.revocation.revoker import Revoker
from ca.settings import ServerSettings
from ca.store.database import Database
from ca.store.revocations import SqlIssuedCertificates, SqlRevocations
from ca.upstream.neighbours import why_no_lists
from citadel.clock import Clock
from citadel.probes import Check
from citadel.spiffe import TrustDomain


@dataclass(frozen=True, kw_only=True)
class RevocationAffairs:
    """What revokes, and what everybody asks who is revoked."""

    trust_domain: TrustDomain
    store: SqlRevocations
    bars: Bars
    lists: RevocationLists

    def check(self) -> Check:
        """What `/ready` says of the lists."""
        lists = self.lists
        return revocation_check(lists.trouble, behind=lists.behind, is_meant=lists.is_meant_to_have_none)


def revocation_affairs(settings: ServerSettings, *, database: Database, keys: KeyManager) -> RevocationAffairs:
    """The parts, not yet started."""
    store, upstream = SqlRevocations(database=database), settings.upstream
    section = {"files": upstream.files, "vault": upstream.vault}
    shared = [name for name, each in section.items() if each is not None and not each.alone]
    why_none = why_no_lists(f"upstream.{shared[0]}.alone") if shared else ""
    return RevocationAffairs(
        trust_domain=settings.trust_domain,
        store=store,
        bars=Bars(),
        lists=RevocationLists(keys=keys, store=store, why_none=why_none),
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
        agents=AgentAdministration(trust_domain=affairs.trust_domain, roster=roster, commits=commits),
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
