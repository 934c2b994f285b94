"""The server's listeners, wired onto its core."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from ca.api.credentials import CredentialStreams
from ca.api.gates import AgentGate, AnonymousGate, proxy_calls
from ca.api.listeners import AdminListener, TlsListener, Watch
from ca.api.sessions import SessionBook
from ca.clusters.sessions import ChildBook
from ca.https.serving import TlsHttp
from ca.settings import ServerSettings
from citadel.config.types import HostPort
from citadel.health import HealthBoard
from citadel.in_flight import InFlight
from citadel.probes import Probes
from cli.server_core import ServerCore
from cli.server_federation import bundle_endpoint
from cli.server_insight import server_condition, server_watch
from cli.server_kubernetes_gateways import credential_streams
from cli.server_kubernetes_istio import IstioDoor, istio_door
from cli.server_oidc import oidc_listener
from cli.server_services import (
    ADMIN_SERVICES,
    TLS_SERVICES,
    add_admin_services,
    add_agent_services,
    add_anonymous_services,
)

GRACE_SECONDS: Final = 3.0
# One address may have one in so many of the anonymous calls that go on at a time.
_ADDRESSES: Final = 16


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
        watch = server_watch(core, condition, services=(*TLS_SERVICES, *ADMIN_SERVICES))
        agents = _agents_listener(settings, core, watch, credentials)
        istio = istio_door(settings, core)
        bootstrap = _bootstrap_listener(settings, core, watch, istio, agent_api=agents.address)
        return cls(
            bootstrap=bootstrap,
            agents=agents,
            admin=_admin_listener(settings, core, watch, bootstrap=bootstrap.address),
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


def _agents_listener(
    settings: ServerSettings, core: ServerCore, watch: Watch, credentials: CredentialStreams
) -> TlsListener:
    return TlsListener(
        address=settings.listen.agents,
        credentials=core.identity.credentials(ask_for_client_certificate=True),
        gate=AgentGate(roster=core.roster, children=core.clusters.callers, most_of_one=settings.limits.agent_calls),
        limits=settings.connections,
        tally=core.tally,
        register=lambda server: add_agent_services(server, core, settings, credentials),
        watch=watch,
    )


def _bootstrap_listener(
    settings: ServerSettings, core: ServerCore, watch: Watch, istio: IstioDoor, *, agent_api: HostPort
) -> TlsListener:
    most = settings.limits.anonymous_calls
    anonymous_calls = InFlight(most=most, most_of_one=max(1, most // _ADDRESSES), what="calls")
    return TlsListener(
        address=settings.listen.bootstrap,
        credentials=core.identity.credentials(ask_for_client_certificate=False),
        anonymous=istio.caller_of,
        gate=AnonymousGate(anonymous_calls, proxies=proxy_calls(settings.limits)),
        limits=settings.connections,
        tally=core.tally,
        register=lambda server: add_anonymous_services(server, core, settings, istio, agent_api=agent_api),
        watch=watch,
    )


def _admin_listener(settings: ServerSettings, core: ServerCore, watch: Watch, *, bootstrap: HostPort) -> AdminListener:
    return AdminListener(
        path=settings.listen.admin_socket,
        relay_dir=settings.relay_dir,
        limits=settings.connections,
        tally=core.tally,
        services=ADMIN_SERVICES,
        register=lambda server, actor_of: add_admin_services(
            server, core, settings, actor_of, bootstrap=settings.advertise.bootstrap or bootstrap
        ),
        watch=watch,
    )
