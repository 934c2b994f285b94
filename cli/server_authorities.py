"""The server's authorities, wired: where they come from, who brings in more to trust, and what is revoked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ca.authority.jwt import JwtAuthorities
from ca.authority.manager import AuthorityManager
from ca.authority.own_bundle import OwnBundle
from ca.authority.ports import Neighbours, UpstreamAuthority
from ca.federation.exchanged import ExchangedRoots
from ca.revocation.lists import RevocationLists
from ca.settings import ServerSettings
from ca.store.audit import SqlAuditLog
from ca.store.authorities import SqlAuthorityStore
from citadel.spiffe import SpiffeId
from cli.server_clusters import ChildKeeping, child_keeping
from cli.server_federation import exchanged_roots
from cli.server_foundation import Foundation
from cli.server_jwt import jwt_authorities
from cli.server_revocation import RevocationAffairs, revocation_affairs
from cli.server_starting import StartSeen
from cli.server_upstream import UpstreamAffairs, Work, upstream_affairs


@dataclass(frozen=True, kw_only=True)
class AuthorityAffairs:
    """The authorities, and all that they are made of."""

    authorities: AuthorityManager
    revocation: RevocationAffairs
    exchanged: ExchangedRoots
    children: ChildKeeping
    upstream: UpstreamAffairs

    async def start(
        self, entitled: frozenset[SpiffeId], running: Callable[[Work], Awaitable[asyncio.Task[None]]]
    ) -> Sequence[asyncio.Task[None]]:
        """Start them, and what is `running` for the upstream from now on. `entitled` are the children with an entry."""
        await self.children.records.start(entitled=entitled)
        return await self.upstream.start(self.authorities, running)


async def authority_affairs(settings: ServerSettings, base: Foundation, start: StartSeen) -> AuthorityAffairs:
    """The parts, not yet started. `start` is told what their start waits for."""
    database, keys, clock = base.database, base.keys.manager, base.clock
    revocation = revocation_affairs(settings, database=database, keys=keys)
    jwt = jwt_authorities(settings, database=database, keys=keys, clock=clock)
    exchanged = await exchanged_roots(database=database, clock=clock)

    def roots() -> frozenset[bytes]:
        return authorities.root_key_ids()  # made below, for they ask the children's records in their turn

    children = child_keeping(settings, database=database, jwt=jwt, roots=roots, clock=clock)
    upstream = upstream_affairs(
        settings,
        database=database,
        keys=keys,
        vault=base.vault.vault if base.vault is not None else None,
        withdrawn=lambda: jwt.withdrawn() | children.records.withdrawn_jwt_keys(),
        has_below=children.records.has_below,
        on_wait=start.waits_for,
        clock=clock,
    )
    authorities = _manager(
        settings,
        base,
        upstream.authority,
        jwt=jwt,
        lists=revocation.lists,
        # Of what two of them bring, that of the nearest counts.
        neighbours=[children.records, exchanged, *upstream.neighbours],
    )
    return AuthorityAffairs(
        authorities=authorities, revocation=revocation, exchanged=exchanged, children=children, upstream=upstream
    )


def _manager(
    settings: ServerSettings,
    base: Foundation,
    upstream: UpstreamAuthority,
    *,
    jwt: JwtAuthorities,
    lists: RevocationLists,
    neighbours: Sequence[Neighbours],
) -> AuthorityManager:
    store = SqlAuthorityStore(database=base.database, trust_domain=settings.trust_domain)
    return AuthorityManager(
        own=OwnBundle(
            trust_domain=settings.trust_domain,
            store=store,
            jwt=jwt,
            neighbours=neighbours,
            refresh_hint=settings.federation.refresh_hint,
        ),
        upstream=upstream,
        keys=base.keys.manager,
        store=store,
        lists=lists,
        acts=SqlAuditLog(database=base.database),
        clock=base.clock,
        issuer_lifetime=settings.authorities.issuer_lifetime,
        backdate=settings.svids.backdate,
    )
