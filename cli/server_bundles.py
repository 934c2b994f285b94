"""Bundles that people give and take, wired onto the server's parts."""

from __future__ import annotations

from ca.api.bundles import BundleService
from ca.api.listeners import ActorOf
from ca.federation.by_hand import BundlesByHand
from ca.federation.exchange import Exchange
from cli.server_core import ServerCore


def bundle_service(core: ServerCore, actor_of: ActorOf) -> BundleService:
    """`citadel.v1.Bundles`."""
    foreign = core.federation.bundles
    by_hand = BundlesByHand(
        trust_domain=core.authorities.bundle().trust_domain,
        foreign=foreign,
        is_federated=core.federation.federations.has,
        entries=core.directory,
        dissociation=core.registry,
        clock=core.clock,
    )
    return BundleService(
        authorities=core.authorities,
        foreign=foreign,
        by_hand=by_hand,
        exchange=Exchange(roots=core.exchanged, authorities=core.authorities, clock=core.clock),
        directory=core.directory,
        actor_of=actor_of,
    )
