"""The composition root of `citadel server`: everything is made and wired here, and nowhere else."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from ca.agents.joining import Joining
from ca.agents.limiter import RateLimiter
from ca.agents.roster import AgentRoster
from ca.api.admin import AdminService
from ca.api.agent_api import AgentService
from ca.api.bootstrap import BootstrapService
from ca.api.listeners import AdminListener, TlsListener
from ca.api.server_identity import ServerIdentity
from ca.api.sessions import SessionBook
from ca.api.status import StatusReader
from ca.authority.manager import AuthorityManager
from ca.authority.self_signed import SelfSignedUpstream
from ca.entries.directory import EntryDirectory
from ca.entries.registry import EntryRegistry
from ca.issuance.issuer import Issuer
from ca.issuance.lifetime import LifetimePolicy
from ca.keys.disk import DiskKeyManager
from ca.keys.kek import read_kek
from ca.keys.sealing import Sealer
from ca.settings import ServerSettings
from ca.store.agents import SqlAgentStore, SqlTokenStore
from ca.store.authorities import SqlAuthorityStore
from ca.store.database import migrate, open_engine
from ca.store.entries import SqlEntryStore
from ca.store.ledger import SqlLedger
from ca.tally import Tally
from citadel._wire.admin_pb2_grpc import add_AdminServicer_to_server
from citadel._wire.agent_api_pb2_grpc import add_AgentApiServicer_to_server
from citadel._wire.bootstrap_pb2_grpc import add_BootstrapServicer_to_server
from citadel.clock import Clock, SystemClock
from citadel.config.files import ensure_private_dir
from citadel.config.types import HostPort
from citadel.errors import CitadelError
from citadel.probes import Probes, Readiness

_log = structlog.get_logger(__name__)

_GRACE_SECONDS: Final = 3.0


async def run_server(settings: ServerSettings, *, stop: asyncio.Event) -> None:
    """Serve until `stop` is set or a part of the server fails, then close in order: doors, work, store."""
    async with AsyncExitStack() as stack:
        core = await stack.enter_async_context(_core(settings, SystemClock()))
        doors = _Doors.open(settings, core)
        await doors.start()
        stack.push_async_callback(doors.close)
        _log.info(
            "server ready",
            trust_domain=str(settings.trust_domain),
            bootstrap=str(doors.bootstrap.address),
            agents=str(doors.agents.address),
            admin=str(settings.listen.admin_socket),
            probes=str(doors.probes.address),
        )
        stopping = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait({stopping, *core.background}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        for task in done - {stopping}:
            task.result()  # a part that ended by itself has failed: say why
        _log.info("server stopping")


@dataclass(frozen=True, kw_only=True)
class _Core:
    """What the services are made of."""

    clock: Clock
    tally: Tally
    authorities: AuthorityManager
    identity: ServerIdentity
    roster: AgentRoster
    directory: EntryDirectory
    registry: EntryRegistry
    issuer: Issuer
    joining: Joining
    sessions: SessionBook
    background: tuple[asyncio.Task[None], ...]


@asynccontextmanager
async def _core(settings: ServerSettings, clock: Clock) -> AsyncIterator[_Core]:
    ensure_private_dir(settings.data_dir)
    engine = open_engine(settings.store_url or f"sqlite+aiosqlite:///{settings.data_dir / 'citadel.db'}")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.dispose)
        await migrate(engine)
        authorities = _authorities(settings, engine, clock)
        await authorities.start()
        roster = AgentRoster(trust_domain=settings.trust_domain, store=SqlAgentStore(engine=engine), clock=clock)
        await roster.start()
        directory = EntryDirectory(trust_domain=settings.trust_domain)
        registry = EntryRegistry(
            trust_domain=settings.trust_domain, store=SqlEntryStore(engine=engine), directory=directory, clock=clock
        )
        await registry.start()
        ledger = SqlLedger(engine=engine, is_banned=roster.is_banned)
        issuer = Issuer(
            entries=directory,
            authorities=authorities,
            ledger=ledger,
            clock=clock,
            policy=LifetimePolicy(
                default=settings.svids.default_lifetime,
                cap=settings.svids.max_lifetime,
                backdate=settings.svids.backdate,
            ),
            agent_lifetime=settings.svids.agent_lifetime,
            max_batch=settings.limits.batch,
        )
        joining = Joining(
            trust_domain=settings.trust_domain,
            tokens=SqlTokenStore(engine=engine),
            roster=roster,
            issuer=issuer,
            clock=clock,
            default_lifetime=settings.limits.token_lifetime,
        )
        identity = ServerIdentity(issuer=issuer, authorities=authorities, clock=clock)
        writing = stack.enter_context(_running(ledger.run()))
        await identity.start()
        renewing = [stack.enter_context(_running(work)) for work in (authorities.run(), identity.run())]
        yield _Core(
            clock=clock,
            tally=Tally(),
            authorities=authorities,
            identity=identity,
            roster=roster,
            directory=directory,
            registry=registry,
            issuer=issuer,
            joining=joining,
            sessions=SessionBook(),
            background=(writing, *renewing),
        )


def _authorities(settings: ServerSettings, engine: AsyncEngine, clock: Clock) -> AuthorityManager:
    keys = DiskKeyManager(
        folder=settings.data_dir / "keys",
        trust_domain=settings.trust_domain,
        sealer=Sealer(read_kek(settings.keys, os.environ)),
    )
    store = SqlAuthorityStore(engine=engine, trust_domain=settings.trust_domain)
    upstream = SelfSignedUpstream(
        trust_domain=settings.trust_domain,
        keys=keys,
        store=store,
        clock=clock,
        root_lifetime=settings.authorities.root_lifetime,
        backdate=settings.svids.backdate,
    )
    return AuthorityManager(
        trust_domain=settings.trust_domain,
        upstream=upstream,
        keys=keys,
        store=store,
        clock=clock,
        issuer_lifetime=settings.authorities.issuer_lifetime,
        backdate=settings.svids.backdate,
    )


@dataclass(frozen=True, kw_only=True)
class _Doors:
    """The listeners, opened when everything behind them is ready."""

    bootstrap: TlsListener
    agents: TlsListener
    admin: AdminListener
    probes: Probes

    @classmethod
    def open(cls, settings: ServerSettings, core: _Core) -> _Doors:
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
            register=lambda server: add_AdminServicer_to_server(
                _admin_service(core, settings.advertise.bootstrap or bootstrap.address), server
            ),
        )
        return cls(
            bootstrap=bootstrap,
            agents=agents,
            admin=admin,
            probes=Probes(settings.listen.probes, lambda: _readiness(core)),
        )

    async def start(self) -> None:
        await self.bootstrap.start()
        await self.agents.start()
        await self.admin.start()
        await self.probes.start()

    async def close(self) -> None:
        await self.probes.close()
        await asyncio.gather(
            self.bootstrap.close(_GRACE_SECONDS), self.agents.close(_GRACE_SECONDS), self.admin.close(_GRACE_SECONDS)
        )


def _agent_service(core: _Core) -> AgentService:
    return AgentService(
        roster=core.roster,
        directory=core.directory,
        authorities=core.authorities,
        issuer=core.issuer,
        sessions=core.sessions,
        tally=core.tally,
        clock=core.clock,
    )


def _admin_service(core: _Core, bootstrap: HostPort) -> AdminService:
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
    )


def _readiness(core: _Core) -> Readiness:
    try:
        issuing = core.authorities.issuing().authority
    except CitadelError as error:
        return Readiness(ready=False, checks={"issuing authority": str(error)})
    return Readiness(ready=True, checks={"issuing authority": f"until {issuing.not_after.isoformat()}"})


@contextmanager
def _running(work: Coroutine[Any, Any, None]) -> Iterator[asyncio.Task[None]]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()


def validate_server(settings: ServerSettings) -> None:
    """Check what the settings name but the settings alone cannot show. Raises as `run_server` would."""
    Sealer(read_kek(settings.keys, os.environ))
    Probes(settings.listen.probes, lambda: Readiness(ready=False))
