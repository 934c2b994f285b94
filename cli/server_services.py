"""The services behind the server's doors, wired onto its core."""

from __future__ import annotations

from typing import Final

from grpc import aio

from ca.api.admin import AdminService
from ca.api.agent_api import AgentService
from ca.api.agents import AgentAdminService
from ca.api.bootstrap import BootstrapService
from ca.api.credentials import CredentialStreams
from ca.api.foreign import ForeignMessages
from ca.api.istio import ISTIO_CA
from ca.api.listeners import ActorOf
from ca.api.records import RecordsService
from ca.api.sync import Sources
from ca.settings import ServerSettings
from citadel._wire.admin_pb2_grpc import add_AdminServicer_to_server
from citadel._wire.agent_api_pb2_grpc import add_AgentApiServicer_to_server
from citadel._wire.agents_pb2_grpc import add_AgentAdminServicer_to_server
from citadel._wire.backup_pb2_grpc import add_BackupServicer_to_server
from citadel._wire.bootstrap_pb2_grpc import add_BootstrapServicer_to_server
from citadel._wire.clusters_pb2_grpc import add_ClustersServicer_to_server
from citadel._wire.federation_pb2_grpc import add_BundlesServicer_to_server, add_FederationsServicer_to_server
from citadel._wire.insight_pb2_grpc import add_InsightServicer_to_server
from citadel._wire.records_pb2_grpc import add_RecordsServicer_to_server
from citadel._wire.revocation_pb2_grpc import add_RevocationsServicer_to_server
from citadel._wire.rotation_pb2_grpc import add_RotationsServicer_to_server
from citadel._wire.trust_pb2_grpc import add_TrustFactsServicer_to_server
from citadel.config.types import HostPort
from citadel.limiter import RateLimiter
from cli.server_backup import backup_service
from cli.server_bundles import bundle_service
from cli.server_clusters import clusters_service
from cli.server_core import ServerCore
from cli.server_federation import federation_service
from cli.server_insight import insight_service
from cli.server_kubernetes_istio import IstioDoor
from cli.server_kubernetes_joining import kubernetes_joining
from cli.server_revocation import revocation_service
from cli.server_rotation import rotation_service
from cli.server_status import server_status
from cli.server_trust import trust_facts_service

TLS_SERVICES: Final = ("citadel.v1.AgentApi", "citadel.v1.Bootstrap", "citadel.v1.Clusters", ISTIO_CA)
ADMIN_SERVICES: Final = (
    "citadel.v1.Admin",
    "citadel.v1.AgentAdmin",
    "citadel.v1.Backup",
    "citadel.v1.Bundles",
    "citadel.v1.Federations",
    "citadel.v1.Insight",
    "citadel.v1.Records",
    "citadel.v1.Revocations",
    "citadel.v1.Rotations",
    "citadel.v1.TrustFacts",
)


def add_agent_services(
    server: aio.Server, core: ServerCore, settings: ServerSettings, credentials: CredentialStreams
) -> None:
    """What callers with a certificate may ask: agents, and child clusters."""
    add_AgentApiServicer_to_server(_agent_service(core, credentials), server)
    above = core.upstream.beyond(core.authorities, core.revocation.lists, core.clusters.records)
    add_ClustersServicer_to_server(clusters_service(settings, core.clusters, core.knowing, above), server)


def add_anonymous_services(
    server: aio.Server, core: ServerCore, settings: ServerSettings, istio: IstioDoor, *, agent_api: HostPort
) -> None:
    """What callers without one may ask. `agent_api` is where they find the others, unless the settings say so."""
    service = BootstrapService(
        authorities=core.authorities,
        joining=core.agents.joining,
        x509pop=core.agents.x509pop,
        rejoining=core.agents.rejoining,
        kubernetes=kubernetes_joining(settings, core),
        limiter=RateLimiter(clock=core.clock, per_second=settings.limits.joins_per_second),
        tally=core.tally,
        agent_api=settings.advertise.agents or agent_api,
    )
    add_BootstrapServicer_to_server(service, server)
    istio.add_to(server)


def add_admin_services(
    server: aio.Server, core: ServerCore, settings: ServerSettings, actor_of: ActorOf, *, bootstrap: HostPort
) -> None:
    """What administrators may ask on the admin socket. `bootstrap` is where agents join."""
    backup = backup_service(
        settings, database=core.database, sealer=core.keys.sealer, actor_of=actor_of, clock=core.clock
    )
    add_BackupServicer_to_server(backup, server)
    add_AdminServicer_to_server(_admin_service(core, bootstrap, actor_of), server)
    add_InsightServicer_to_server(insight_service(core, actor_of), server)
    add_RecordsServicer_to_server(_records_service(core, actor_of), server)
    add_BundlesServicer_to_server(bundle_service(core, actor_of), server)
    rotations = rotation_service(core.rotation, core.agents, clock=core.clock, actor_of=actor_of)
    add_RotationsServicer_to_server(rotations, server)
    revocations = revocation_service(
        core.revocation,
        revoker=core.revoker,
        sessions=core.sessions,
        roster=core.roster,
        clock=core.clock,
        actor_of=actor_of,
    )
    add_RevocationsServicer_to_server(revocations, server)
    federations = federation_service(core.federation, directory=core.directory, clock=core.clock, actor_of=actor_of)
    add_FederationsServicer_to_server(federations, server)
    add_AgentAdminServicer_to_server(_agent_admin_service(core, actor_of), server)
    add_TrustFactsServicer_to_server(trust_facts_service(settings, core), server)


def _agent_service(core: ServerCore, credentials: CredentialStreams) -> AgentService:
    return AgentService(
        roster=core.roster,
        sources=Sources(
            directory=core.directory,
            authorities=core.authorities,
            foreign=ForeignMessages(core.federation.bundles),
            lists=core.revocation.lists,
            revoked=core.revocation.bars,
            orders=core.rotation.board,
        ),
        issuer=core.issuer,
        jwt_issuer=core.jwt_issuer,
        sessions=core.sessions,
        sightings=core.agents.sightings,
        credentials=credentials,
        tally=core.tally,
        clock=core.clock,
    )


def _agent_admin_service(core: ServerCore, actor_of: ActorOf) -> AgentAdminService:
    return AgentAdminService(
        administration=core.agents.administration,
        roster=core.roster,
        directory=core.directory,
        sessions=core.sessions,
        sightings=core.agents.sightings,
        own_svids=core.agents.own_svids,
        clock=core.clock,
        actor_of=actor_of,
    )


def _records_service(core: ServerCore, actor_of: ActorOf) -> RecordsService:
    return RecordsService(
        pages=core.records.pages, chains=core.records.chains, notary=core.records.notary, actor_of=actor_of
    )


def _admin_service(core: ServerCore, bootstrap: HostPort, actor_of: ActorOf) -> AdminService:
    return AdminService(
        joining=core.agents.joining,
        registry=core.registry,
        directory=core.directory,
        authorities=core.authorities,
        status=server_status(core),
        bootstrap=bootstrap,
        actor_of=actor_of,
        tally=core.tally,
    )
