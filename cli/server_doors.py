"""The server's listeners and services, wired onto its core."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from ca.agents.limiter import RateLimiter
from ca.api.admin import AdminService
from ca.api.agent_api import AgentService
from ca.api.bootstrap import BootstrapService
from ca.api.listeners import ActorOf, AdminListener, TlsListener
from ca.api.sessions import SessionBook
from ca.api.status import StatusReader
from ca.settings import ServerSettings
from citadel._wire.admin_pb2_grpc import add_AdminServicer_to_server
from citadel._wire.agent_api_pb2_grpc import add_AgentApiServicer_to_server
from citadel._wire.bootstrap_pb2_grpc import add_BootstrapServicer_to_server
from citadel.config.types import HostPort
from citadel.errors import CitadelError
from citadel.probes import Probes, Readiness
from cli.server_core import ServerCore

_GRACE_SECONDS: Final = 3.0


@dataclass(frozen=True, kw_only=True)
class ServerDoors:
    """The listeners, opened when everything behind them is ready."""

    bootstrap: TlsListener
    agents: TlsListener
    admin: AdminListener
    probes: Probes
    sessions: SessionBook

    @classmethod
    def open(cls, settings: ServerSettings, core: ServerCore) -> ServerDoors:
        agents = TlsListener(
            address=settings.listen.agents,
            credentials=core.identity.credentials(ask_for_client_certificate=True),
            for_agents=True,
            tally=core.tally,
            register=lambda server: add_AgentApiServicer_to_server(_agent_service(core), server),
        )
        bootstrap = TlsListener(
            address=settings.listen.bootstrap,
            credentials=core.identity.credentials(ask_for_client_certificate=False),
            for_agents=False,
            tally=core.tally,
            register=lambda server: add_BootstrapServicer_to_server(
                BootstrapService(
                    authorities=core.authorities,
                    joining=core.joining,
                    limiter=RateLimiter(clock=core.clock, per_second=settings.limits.joins_per_second),
                    tally=core.tally,
                    agent_api=settings.advertise.agents or agents.address,
                ),
                server,
            ),
        )
        admin = AdminListener(
            path=settings.listen.admin_socket,
            tally=core.tally,
            services=("citadel.v1.Admin",),
            register=lambda server, actor_of: add_AdminServicer_to_server(
                _admin_service(core, settings.advertise.bootstrap or bootstrap.address, actor_of), server
            ),
        )
        return cls(
            bootstrap=bootstrap,
            agents=agents,
            admin=admin,
            probes=Probes(settings.listen.probes, lambda: _readiness(core)),
            sessions=core.sessions,
        )

    async def start(self) -> None:
        await self.bootstrap.start()
        await self.agents.start()
        await self.admin.start()
        await self.probes.start()

    async def close(self) -> None:
        await self.probes.close()
        self.sessions.end_all()
        await asyncio.gather(
            self.bootstrap.close(_GRACE_SECONDS), self.agents.close(_GRACE_SECONDS), self.admin.close(_GRACE_SECONDS)
        )


def _agent_service(core: ServerCore) -> AgentService:
    return AgentService(
        roster=core.roster,
        directory=core.directory,
        authorities=core.authorities,
        issuer=core.issuer,
        sessions=core.sessions,
        tally=core.tally,
        clock=core.clock,
    )


def _admin_service(core: ServerCore, bootstrap: HostPort, actor_of: ActorOf) -> AdminService:
    return AdminService(
        joining=core.joining,
        registry=core.registry,
        directory=core.directory,
        authorities=core.authorities,
        status=StatusReader(
            authorities=core.authorities,
            roster=core.roster,
            directory=core.directory,
            sessions=core.sessions,
            tally=core.tally,
            started_at=core.clock.now(),
        ),
        bootstrap=bootstrap,
        actor_of=actor_of,
    )


def _readiness(core: ServerCore) -> Readiness:
    try:
        issuing = core.authorities.issuing().authority
    except CitadelError as error:
        return Readiness(ready=False, checks={"issuing authority": str(error)})
    return Readiness(ready=True, checks={"issuing authority": f"until {issuing.not_after.isoformat()}"})
