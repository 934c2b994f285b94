"""JWT-SVIDs, wired onto the server's parts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from ca.authority.jwt import JwtAuthorities
from ca.authority.jwt_ports import JwtKeyManager
from ca.entries.directory import EntryDirectory
from ca.issuance.jwt import JwtIssuer
from ca.issuance.lifetime import LifetimePolicy
from ca.issuance.quota import Quota
from ca.metrics import JwtMeter
from ca.revocation.bars import Bars
from ca.settings import ServerSettings
from ca.store.database import Database
from ca.store.jwt_authorities import SqlJwtAuthorityStore
from citadel.clock import Clock


def jwt_authorities(
    settings: ServerSettings, *, database: Database, keys: JwtKeyManager, clock: Clock
) -> JwtAuthorities:
    """The keys that sign tokens, not yet started."""
    return JwtAuthorities(
        keys=keys,
        store=SqlJwtAuthorityStore(database=database),
        clock=clock,
        lifetime=settings.authorities.jwt_lifetime,
        kind=settings.authorities.jwt_key,
    )


def jwt_issuer(
    settings: ServerSettings,
    *,
    directory: EntryDirectory,
    bars: Bars,
    authorities: JwtAuthorities,
    metrics: CollectorRegistry,
    clock: Clock,
) -> JwtIssuer:
    """What signs tokens."""
    lifetimes = settings.svids
    return JwtIssuer(
        entries=directory,
        bars=bars,
        authorities=authorities,
        clock=clock,
        policy=LifetimePolicy(
            default=lifetimes.jwt_default_lifetime,
            own=lifetimes.jwt_default_lifetime,
            cap=lifetimes.jwt_max_lifetime,
            backdate=lifetimes.backdate,
        ),
        quota=Quota(max_batch=settings.limits.batch, per_second=settings.limits.svids_per_second, clock=clock),
        issuer=settings.oidc.issuer,
        meter=JwtMeter(registry=metrics),
    )
