"""The server's listeners and services, wired onto its core."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from grpc import aio

from ca.api.admin import AdminService
from ca.api.agent_api import AgentService
from ca.api.agents import AgentAdminService
from ca.api.bootstrap import BootstrapService
from ca.api.credentials import CredentialStreams
from ca.api.foreign import ForeignMessages
from ca.api.gates import AgentGate, AnonymousGate, proxy_calls
from ca.api.istio import ISTIO_CA
from ca.api.listeners import ActorOf, AdminListener, TlsListener
from ca.api.records import RecordsService
from ca.api.sessions import SessionBook
from ca.api.status import StatusReader
from ca.api.sync import Sources
from ca.clusters.sessions import ChildBook
from ca.https.serving import TlsHttp
from ca.settings import ServerSettings
from citadel._wire import admin_pb2
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
from citadel.health import HealthBoard
from citadel.in_flight import InFlight
from citadel.limiter import RateLimiter
from citadel.probes import Probes
from citadel.wire import to_timestamp
from cli.server_backup import backup_service
from cli.server_bundles import bundle_service
from cli.server_clusters import clusters_service
from cli.server_core import ServerCore
from cli.server_federation import bundle_endpoint, federation_service
from cli.server_insight import insight_service, server_condition, server_watch
from cli.server_kubernetes_gateways import credential_streams
from cli.server_kubernetes_istio import IstioDoor, istio_door
from cli.server_kubernetes_joining import kubernetes_joining
from cli.server_oidc import oidc_listener
from cli.server_revocation import revocation_service
from cli.server_rotation import rotation_service
from cli.server_trust import trust_facts_service

GRACE_SECONDS: Final = 3.0
# One address may have one in so many of the anonymous calls that go on at a time.
_ADDRESSES: Final = 16
_TLS_SERVICES: Final = ("citadel.v1.AgentApi", "citadel.v1.Bootstrap", "citadel.v1.Clusters", ISTIO_CA)
_ADMIN_SERVICES: Final = (
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


@dataclass(frozen=True, kw_only=True)
class ServerDoors:
    """The listeners, opened when everything behind them is ready."""

    bootstrap: TlsListener
    agents: TlsListener
    admin: AdminListener
    probes: Probes
    oidc: TlsHttp | None
    bundle_endpoint: TlsHttp | None
    health: HealthBoard
    sessions: SessionBook
    children: ChildBook
    istio: IstioDoor
    credentials: CredentialStreams

    @classmethod
    def open(cls, settings: ServerSettings, core: ServerCore) -> ServerDoors:
        oidc = oidc_listener(settings.oidc, authorities=core.authorities, metrics=core.metrics, clock=core.clock)
        endpoint = bundle_endpoint(
            settings.federation,
            own_bundle=core.authorities.bundle,
            identity=core.identity,
            metrics=core.metrics,
            clock=core.clock,
        )
        credentials = credential_streams(
            core.kubernetes, roster=core.roster, directory=core.directory, tally=core.tally, clock=core.clock
        )
        condition = server_condition(
            core, *(listener.check for listener in (oidc, endpoint) if listener), core.federation.check
        )
        watch = server_watch(core, condition, services=(*_TLS_SERVICES, *_ADMIN_SERVICES))
        agents = TlsListener(
            address=settings.listen.agents,
            credentials=core.identity.credentials(ask_for_client_certificate=True),
            gate=AgentGate(roster=core.roster, children=core.clusters.callers, most_of_one=settings.limits.agent_calls),
            limits=settings.connections,
            tally=core.tally,
            register=lambda server: _add_services(server, core, settings, credentials),
            watch=watch,
        )
        most = settings.limits.anonymous_calls
        anonymous_calls = InFlight(most=most, most_of_one=max(1, most // _ADDRESSES), what="calls")
        istio = istio_door(settings, core)
        bootstrap = TlsListener(
            address=settings.listen.bootstrap,
            credentials=core.identity.credentials(ask_for_client_certificate=False),
            anonymous=istio.caller_of,
            gate=AnonymousGate(anonymous_calls, proxies=proxy_calls(settings.limits)),
            limits=settings.connections,
            tally=core.tally,
            register=lambda server: _add_anonymous_services(server, core, settings, istio, agent_api=agents.address),
            watch=watch,
        )
        admin = AdminListener(
            path=settings.listen.admin_socket,
            relay_dir=settings.relay_dir,
            limits=settings.connections,
            tally=core.tally,
            services=_ADMIN_SERVICES,
            register=lambda server, actor_of: _add_admin_services(
                server, core, settings, actor_of, bootstrap=settings.advertise.bootstrap or bootstrap.address
            ),
            watch=watch,
        )
        return cls(
            bootstrap=bootstrap,
            agents=agents,
            admin=admin,
            probes=Probes(
                settings.listen.probes,
                condition.readiness,
                metrics=core.metrics,
                outside=settings.listen.probes_outside,
            ),
            oidc=oidc,
            bundle_endpoint=endpoint,
            health=watch.health,
            sessions=core.sessions,
            children=core.clusters.book,
            istio=istio,
            credentials=credentials,
        )

    async def start(self) -> None:
        await self.health.start()
        await self.bootstrap.start()
        await self.agents.start()
        await self.admin.start()
        for listener in self._https:
            await listener.start()
        await self.probes.start()

    async def close(self, *, grace: float = GRACE_SECONDS) -> None:
        await self.health.drain()
        await self.probes.close()
        self.sessions.end_all()
        self.children.end_all()
        self.credentials.end_all()
        closing = [self.bootstrap.close(grace), self.agents.close(grace), self.admin.close(grace)]
        await asyncio.gather(*closing, *(listener.close() for listener in self._https))
        await self.istio.close()

    @property
    def _https(self) -> list[TlsHttp]:
        return [listener for listener in (self.oidc, self.bundle_endpoint) if listener is not None]


def _add_services(
    server: aio.Server, core: ServerCore, settings: ServerSettings, credentials: CredentialStreams
) -> None:
    add_AgentApiServicer_to_server(_agent_service(core, credentials), server)
    above = core.upstream.beyond(core.authorities, core.revocation.lists, core.clusters.records)
    add_ClustersServicer_to_server(clusters_service(settings, core.clusters, core.knowing, above), server)


def _add_anonymous_services(
    server: aio.Server, core: ServerCore, settings: ServerSettings, istio: IstioDoor, *, agent_api: HostPort
) -> None:
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


def _add_admin_services(
    server: aio.Server, core: ServerCore, settings: ServerSettings, actor_of: ActorOf, *, bootstrap: HostPort
) -> None:
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
    reader = StatusReader(
        authorities=core.authorities,
        roster=core.roster,
        directory=core.directory,
        sessions=core.sessions,
        rotator=core.rotation.rotator,
        tally=core.tally,
        upstream=core.upstream_condition,
        started_at=core.clock.now(),
    )
    gaps = [admin_pb2.LedgerGap(begin=to_timestamp(gap.begin), end=to_timestamp(gap.end)) for gap in core.ledger_gaps]

    def status() -> admin_pb2.Status:
        found = reader.read()
        found.ledger_gaps.extend(gaps)
        found.federations.extend(core.federation.status())
        found.revocation_trouble = core.revocation.lists.trouble
        found.revocation_behind = core.revocation.lists.behind
        found.clusters.extend(core.clusters.children.clusters())
        found.kubernetes.extend(core.kubernetes.status())
        if core.vault is not None:
            found.vault.CopyFrom(core.vault.status())
        if (keys := core.keys_condition()) is not None:
            keys.tell(found.vault, core.clock.now())
        return found

    return AdminService(
        joining=core.agents.joining,
        registry=core.registry,
        directory=core.directory,
        authorities=core.authorities,
        status=status,
        bootstrap=bootstrap,
        actor_of=actor_of,
        tally=core.tally,
    )
