"""JWT authorities over a real store, for tests that need some or are about them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from ca.authority.jwt import JwtAuthorities
from ca.authority.jwt_ports import JwtKeyManager
from ca.authority.own_bundle import OwnBundle
from ca.authority.ports import AuthorityStore, Neighbours
from ca.keys.kinds import KeyKind
from ca.store.database import Database
from ca.store.jwt_authorities import SqlJwtAuthorityStore
from citadel.clock import Clock
from tests.unit.ca.values import A_TEST

LIFETIME: Final = timedelta(days=7)


def own_bundle(
    store: AuthorityStore,
    *,
    database: Database,
    keys: JwtKeyManager,
    clock: Clock,
    neighbours: Sequence[Neighbours] = (),
) -> OwnBundle:
    """The own bundle of `a.test`, with keys for tokens that live for 7 days."""
    jwt = JwtAuthorities(
        keys=keys,
        store=SqlJwtAuthorityStore(database=database),
        clock=clock,
        lifetime=LIFETIME,
        kind=KeyKind.EC_P256,
    )
    return OwnBundle(trust_domain=A_TEST, store=store, jwt=jwt, neighbours=neighbours)
