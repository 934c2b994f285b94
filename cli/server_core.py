"""What the server's services are made of, wired: store, authorities, entries, agents, issuer, and their work."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from ca.agents.joining import Joining
from ca.agents.roster import AgentRoster
from ca.api.server_identity import ServerIdentity
from ca.api.sessions import SessionBook
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
from ca.store.database import Database
from ca.store.entries import SqlEntryStore
from ca.store.ledger import SqlLedger
from citadel.clock import Clock
from citadel.config.files import ensure_private_dir
from citadel.folder_lock import folder_lock
from citadel.tally import Tally


@dataclass(frozen=True, kw_only=True)
class ServerCore:
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
async def server_core(settings: ServerSettings, clock: Clock) -> AsyncIterator[ServerCore]:
    """The parts, started, with their background work; ended and closed in the reverse order."""
    ensure_private_dir(settings.data_dir)
    database = Database.open(settings.store_url or f"sqlite+aiosqlite:///{settings.data_dir / 'citadel.db'}")
    async with AsyncExitStack() as stack:
        stack.enter_context(folder_lock(settings.data_dir))
        stack.push_async_callback(database.close)
        tally = Tally(clock=clock)
        stack.push_async_callback(tally.close)  # says the sums that were not told yet
        await database.migrate()
        authorities = _authorities(settings, database, clock)
        await authorities.start()
        roster = AgentRoster(trust_domain=settings.trust_domain, store=SqlAgentStore(database=database), clock=clock)
        await roster.start()
        directory = EntryDirectory(trust_domain=settings.trust_domain)
        registry = EntryRegistry(
            trust_domain=settings.trust_domain, store=SqlEntryStore(database=database), directory=directory, clock=clock
        )
        await registry.start()
        ledger = SqlLedger(database=database, is_banned=roster.is_banned)
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
            tokens=SqlTokenStore(database=database),
            roster=roster,
            issuer=issuer,
            clock=clock,
            default_lifetime=settings.limits.token_lifetime,
        )
        identity = ServerIdentity(issuer=issuer, authorities=authorities, clock=clock)
        writing = await stack.enter_async_context(_running(ledger.run()))
        await identity.start()
        renewing = [await stack.enter_async_context(_running(work)) for work in (authorities.run(), identity.run())]
        yield ServerCore(
            clock=clock,
            tally=tally,
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


def _authorities(settings: ServerSettings, database: Database, clock: Clock) -> AuthorityManager:
    keys = DiskKeyManager(
        folder=settings.data_dir / "keys",
        trust_domain=settings.trust_domain,
        sealer=Sealer(read_kek(settings.keys, os.environ)),
    )
    store = SqlAuthorityStore(database=database, trust_domain=settings.trust_domain)
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


@asynccontextmanager
async def _running(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})  # the store must not close under a commit
