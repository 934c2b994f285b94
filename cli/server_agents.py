"""What the server does with agents beside the roster, wired: ways to join and to come back, and administration."""

from __future__ import annotations

from dataclasses import dataclass

from ca.agents.administration import AgentAdministration
from ca.agents.anchors import AnchorFile
from ca.agents.joining import Joining
from ca.agents.rejoining import Rejoining
from ca.agents.roster import AgentRoster
from ca.agents.sightings import Sightings
from ca.agents.x509pop import X509PopJoining
from ca.api.sessions import SessionBook
from ca.issuance.issuer import Issuer
from ca.issuance.ledger import CommitsUnderWay
from ca.settings import ServerSettings
from ca.store.agents import SqlSightings, SqlTokenStore
from ca.store.database import Database
from ca.store.own_svids import SqlOwnSvids
from citadel.clock import Clock


@dataclass(frozen=True, kw_only=True)
class AgentAffairs:
    """What the services for agents and about agents are made of."""

    joining: Joining
    x509pop: X509PopJoining
    rejoining: Rejoining
    administration: AgentAdministration
    sightings: Sightings
    own_svids: SqlOwnSvids


async def agent_affairs(
    settings: ServerSettings,
    *,
    database: Database,
    roster: AgentRoster,
    issuer: Issuer,
    commits: CommitsUnderWay,
    sessions: SessionBook,
    clock: Clock,
) -> AgentAffairs:
    """The parts, which know what the store knows. Raises `InvalidArgument` (`config_invalid`) for a bad CA file."""
    own_svids = SqlOwnSvids(database=database)
    ca_file = settings.joining.x509pop.ca_file
    anchors = AnchorFile(ca_file).load if ca_file is not None else None
    if anchors is not None:
        anchors()  # a start with a bad one ends here, rather than at the first join
    sightings = Sightings(
        store=SqlSightings(database=database), connected=lambda: sessions.newest().keys(), clock=clock
    )
    await sightings.start()
    return AgentAffairs(
        joining=Joining(
            trust_domain=settings.trust_domain,
            tokens=SqlTokenStore(database=database),
            roster=roster,
            issuer=issuer,
            clock=clock,
            default_lifetime=settings.limits.token_lifetime,
        ),
        x509pop=X509PopJoining(
            trust_domain=settings.trust_domain, anchors=anchors, roster=roster, issuer=issuer, clock=clock
        ),
        rejoining=Rejoining(
            trust_domain=settings.trust_domain,
            key_ends=own_svids,
            roster=roster,
            issuer=issuer,
            clock=clock,
            grace=settings.joining.rejoin_grace,
        ),
        administration=AgentAdministration(trust_domain=settings.trust_domain, roster=roster, commits=commits),
        sightings=sightings,
        own_svids=own_svids,
    )
