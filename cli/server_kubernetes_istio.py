"""Istio's proxies as clients, wired onto the clusters whose settings ask for it."""

from __future__ import annotations

from dataclasses import dataclass
from random import SystemRandom
from typing import Any

from grpc import aio

from ca.api.istio import IstioCertificateService
from ca.api.refusals import ProvenCallers
from ca.kubernetes.istio.callers import Tokens
from ca.kubernetes.istio.chain import Answers
from ca.kubernetes.istio.clusters import IstioCluster, IstioClusters
from ca.kubernetes.istio.gathering import Gathering
from ca.kubernetes.istio.oidc import OidcTokens
from ca.kubernetes.istio.presence import Presence
from ca.kubernetes.room import Room
from ca.kubernetes.settings import IstioSettings
from ca.kubernetes.tokens import TokenReviewer
from ca.settings import ServerSettings
from citadel._wire.istio_ca_pb2_grpc import add_IstioCertificateServiceServicer_to_server
from citadel.actor import Actor
from citadel.clock import Clock
from citadel.jwt.fetching import HttpKeyFetcher
from citadel.jwt.key_ring import IssuerKeyRing
from cli.server_core import ServerCore
from cli.server_kubernetes import Cluster


@dataclass(frozen=True, kw_only=True)
class IstioDoor:
    """What the bootstrap listener needs of it; no `service` where no cluster asks for it."""

    service: IstioCertificateService | None
    proven: ProvenCallers
    keys: IssuerKeyRing

    def add_to(self, server: aio.Server) -> None:
        """Serve it; without it the method is not there."""
        if self.service is not None:
            add_IstioCertificateServiceServicer_to_server(self.service, server)

    def caller_of(self, context: Any) -> Actor:
        """Who was refused."""
        return self.proven.caller_of(context)

    async def close(self) -> None:
        """Fetch no keys any more."""
        await self.keys.close()


def istio_door(settings: ServerSettings, core: ServerCore) -> IstioDoor:
    """What serves the proxies of all clusters; begins to fetch the keys of those whose tokens are checked by OIDC."""
    keys = IssuerKeyRing(fetch=HttpKeyFetcher(), clock=core.clock, jitter=SystemRandom().random)
    proven = ProvenCallers()
    clusters = [
        IstioCluster(
            cluster.name,
            istio,
            trust_domain=settings.trust_domain,
            tokens=_tokens(cluster, istio, keys, core.clock),
            presence=_presence(cluster, istio),
        )
        for cluster in core.kubernetes.clusters.values()
        if (istio := cluster.settings.istio) is not None
    ]
    service = IstioCertificateService(
        clusters=IstioClusters(clusters),
        issuing=Gathering(core.issuer),
        answers=Answers(core.authorities.bundle),
        room=Room(settings.limits.proxy_calls, clusters=len(clusters)),
        proven=proven,
        tally=core.tally,
    )
    return IstioDoor(service=service if clusters else None, proven=proven, keys=keys)


def _presence(cluster: Cluster, istio: IstioSettings) -> Presence | None:
    if not istio.follows_pods:
        return None
    presence = Presence(cluster.pods)
    cluster.notes.append(presence.notes)
    return presence


def _tokens(cluster: Cluster, istio: IstioSettings, keys: IssuerKeyRing, clock: Clock) -> Tokens:
    if istio.oidc is not None:
        tokens = OidcTokens(istio.oidc, cluster=cluster.name, audience=istio.audience, keys=keys, clock=clock)
        cluster.notes.append(tokens.notes)
        return tokens
    return TokenReviewer(cluster.api, cluster=cluster.name, audience=istio.audience, clock=clock, keep=istio.cache)
