"""Joining: a token, handed over once, becomes an agent with a recorded key."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Protocol
from uuid import uuid4

import structlog

from ca.agents.model import Agent, joined
from ca.agents.roster import AgentRoster
from ca.audit.model import Act, Actor
from ca.issuance.csr import public_key_of
from ca.issuance.issuer import Issuer, key_digest
from ca.issuance.press import IssuedSvid
from citadel.clock import Clock
from citadel.config.types import format_duration
from citadel.errors import InvalidArgument, PermissionDenied, Reason, Unauthenticated
from citadel.reserved import agent_id
from citadel.selector import Selector
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.tasks import to_its_end

_log = structlog.get_logger(__name__)

_TOKEN_BYTES: Final = 32
_AGENT_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_MOST_LIFETIME: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """A token as the store keeps it: only its digest, and what it is good for."""

    digest: str
    agent: SpiffeId
    selectors: frozenset[Selector]
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """A token as its maker gets it, once. Where `agent_exists`, using it replaces that agent's key."""

    secret: str = field(repr=False)
    token: JoinToken
    agent_exists: bool


MakeAgent = Callable[[JoinToken], tuple[Agent, Act]]


class TokenStore(Protocol):
    """Where tokens are durable."""

    async def add(self, token: JoinToken, act: Act, *, at: datetime) -> None:
        """Record a token, and note the act with it."""
        ...

    async def exists(self, digest: str) -> bool:
        """Whether there is such a token, used or not."""
        ...

    async def redeem(self, digest: str, *, now: datetime, make_agent: MakeAgent) -> Agent:
        """Use the token up, record the agent that it makes and note the act, in one transaction.

        Until it expires, a used token is still good for the very agent and key that it made: whoever asks has proven
        that key, and the first answer was lost. Raises `Unauthenticated` with `token_unknown`, `token_used` or
        `token_expired`.
        """
        ...


class Joining:
    """Makes tokens and redeems them."""

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        tokens: TokenStore,
        roster: AgentRoster,
        issuer: Issuer,
        clock: Clock,
        default_lifetime: timedelta,
    ) -> None:
        self._trust_domain = trust_domain
        self._tokens = tokens
        self._roster = roster
        self._issuer = issuer
        self._clock = clock
        self._default_lifetime = default_lifetime

    async def create_token(
        self, *, agent_name: str, lifetime: timedelta | None, selectors: frozenset[Selector], by: Actor
    ) -> NewToken:
        """A token for one agent, which is called `agent_name`, or gets a random name where that is empty."""
        name = agent_name or uuid4().hex
        if _AGENT_NAME.fullmatch(name) is None:
            raise InvalidArgument(
                Reason.TOKEN_BAD_OPTIONS, f"agent name {name[:100]!r} is not up to 63 of a-z 0-9 '.' '_' '-'"
            )
        lifetime = self._default_lifetime if lifetime is None else lifetime
        if not timedelta(0) < lifetime <= _MOST_LIFETIME:
            raise InvalidArgument(Reason.TOKEN_BAD_OPTIONS, f"a token lives up to {format_duration(_MOST_LIFETIME)}")
        for selector in selectors:
            if selector.type != "node":
                raise InvalidArgument(Reason.ENTRY_BAD_SELECTOR, f"{selector} is not a fact about a node ('node:…')")
        secret = secrets.token_urlsafe(_TOKEN_BYTES)
        agent = agent_id(self._trust_domain, name)
        token = JoinToken(
            digest=_digest(secret),
            agent=agent,
            selectors=selectors | {Selector("node", f"name:{name}")},
            expires_at=self._clock.now() + lifetime,
        )
        exists = agent in self._roster.all()
        replaces = ", replaces the key of an agent that has joined" if exists else ""
        act = Act(
            actor=by, what="token.create", target=str(agent), detail=f"until {token.expires_at.isoformat()}{replaces}"
        )
        await self._tokens.add(token, act, at=self._clock.now())
        _log.info("join token made", agent=str(agent), expires_at=token.expires_at.isoformat(), replaces_agent=exists)
        return NewToken(secret=secret, token=token, agent_exists=exists)

    async def join(self, secret: str, csr: bytes, *, origin: str = "") -> IssuedSvid:
        """Redeem a token for an agent's SVID; `origin` is the address that it comes from.

        Raises `Unauthenticated`, `PermissionDenied` or `InvalidArgument`.
        """
        key = key_digest(public_key_of(csr))
        now = self._clock.now()

        def make_agent(token: JoinToken) -> tuple[Agent, Act]:
            if self._roster.is_banned(token.agent):
                raise PermissionDenied(Reason.AGENT_BANNED, f"{token.agent} is banned", fix="join under another name")
            agent = Agent(
                spiffe_id=token.agent,
                key=key,
                next_key=None,
                selectors=token.selectors,
                banned=False,
                joined_at=now,
            )
            return agent, joined(agent, origin=origin)

        # Before the lock that renewals need too: who guesses holds nobody up.
        if not secret.isascii() or not secret or not await self._tokens.exists(_digest(secret)):
            raise Unauthenticated(Reason.TOKEN_UNKNOWN, "there is no such join token")

        async def redeem() -> Agent:
            async with self._roster.one_change_at_a_time:
                agent = await self._tokens.redeem(_digest(secret), now=now, make_agent=make_agent)
                self._roster.put(agent)
            return agent

        agent = await to_its_end(redeem())
        _log.info("agent joined", agent=str(agent.spiffe_id))
        return await self._roster.issue_own(agent.spiffe_id, csr, issuer=self._issuer)


def _digest(secret: str) -> str:
    # A token has 256 random bits, so a plain digest cannot be searched; comparing digests leaks nothing of the token.
    return hashlib.sha256(secret.encode()).hexdigest()
