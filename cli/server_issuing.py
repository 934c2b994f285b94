"""What issues, wired: certificates, tokens, the server's own identity, and the agents that it is done for."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass

from ca.api.server_identity import ServerIdentity
from ca.api.sessions import SessionBook
from ca.issuance.issuer import Issuer
from ca.issuance.jwt import JwtIssuer
from ca.issuance.lifetime import LifetimePolicy
from ca.issuance.quota import Quota
from ca.settings import ServerSettings
from cli.server_agents import AgentAffairs, agent_affairs
from cli.server_authorities import AuthorityAffairs
from cli.server_foundation import Foundation
from cli.server_jwt import jwt_issuer
from cli.server_registers import Registers
from cli.server_running import running


@dataclass(frozen=True, kw_only=True)
class Issuing:
    """All of it issues; `writing` makes the ledger's rows durable."""

    issuer: Issuer
    jwt_issuer: JwtIssuer
    sessions: SessionBook
    agents: AgentAffairs
    identity: ServerIdentity
    writing: asyncio.Task[None]


async def started_issuing(
    settings: ServerSettings, base: Foundation, trust: AuthorityAffairs, registers: Registers, stack: AsyncExitStack
) -> Issuing:
    """The parts, which issue from now on until `stack` ends them; revocations are enforced from now on too."""
    issuer = _issuer(settings, base, trust, registers)
    stack.callback(issuer.close)
    tokens = jwt_issuer(
        settings,
        directory=registers.directory,
        bars=trust.revocation.bars,
        authorities=trust.authorities.jwt,
        metrics=base.metrics,
        clock=base.clock,
    )
    stack.callback(tokens.close)
    sessions = SessionBook(most_silent=settings.limits.silent_streams, hello_timeout=settings.limits.hello_timeout)
    agents = await agent_affairs(
        settings,
        database=base.database,
        roster=registers.roster,
        issuer=issuer,
        commits=registers.ledger,
        sessions=sessions,
        clock=base.clock,
    )
    identity = ServerIdentity(
        issuer=issuer, authorities=trust.authorities, clock=base.clock, dns_names=settings.advertise.dns_names
    )
    writing = await stack.enter_async_context(running(registers.ledger.run()))
    await identity.start()
    await registers.revoker.start()
    trust.revocation.bars.watch(sessions.wake_all)
    return Issuing(
        issuer=issuer, jwt_issuer=tokens, sessions=sessions, agents=agents, identity=identity, writing=writing
    )


def _issuer(settings: ServerSettings, base: Foundation, trust: AuthorityAffairs, registers: Registers) -> Issuer:
    return Issuer(
        entries=registers.directory,
        bars=trust.revocation.bars,
        authorities=trust.authorities,
        ledger=registers.metered,
        clock=base.clock,
        policy=LifetimePolicy(
            default=settings.svids.default_lifetime,
            own=settings.svids.agent_lifetime,
            cap=settings.svids.max_lifetime,
            backdate=settings.svids.backdate,
        ),
        quota=Quota(max_batch=settings.limits.batch, per_second=settings.limits.svids_per_second, clock=base.clock),
        on_signed=registers.metered.note_signed,
    )
