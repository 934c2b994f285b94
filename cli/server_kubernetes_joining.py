"""Agents that join by Kubernetes, wired onto the server's parts."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from ca.kubernetes.joining import JoiningCluster, KubernetesJoining
from ca.kubernetes.nodes import Places
from ca.kubernetes.room import Room
from ca.kubernetes.settings import NodeJoiningSettings
from ca.kubernetes.tokens import TokenReviewer
from ca.settings import ServerSettings
from citadel.spiffe import SpiffeId
from cli.server_core import ServerCore
from cli.server_kubernetes import Cluster

# So long after it was last heard of, an agent keeps no other one off its node.
_HERE: Final = timedelta(minutes=1)
# So long after the server's start its agents may not have come back yet, and the store says late who was heard of.
_COMING_BACK: Final = timedelta(minutes=2)


def kubernetes_joining(settings: ServerSettings, core: ServerCore) -> KubernetesJoining:
    """Joining from each cluster that the settings allow it for; there can be none."""
    started = core.clock.now()

    def is_here(spiffe_id: SpiffeId) -> bool:
        if core.clock.now() - started < _COMING_BACK or spiffe_id in core.sessions.newest():
            return True
        agent, seen = core.roster.all().get(spiffe_id), core.agents.sightings.of(spiffe_id)
        joined = agent.joined_at if agent is not None else None
        return any(core.clock.now() - time < _HERE for time in (joined, seen) if time is not None)

    clusters = {
        name: _joining_of(each, each.settings.joining, core)
        for name, each in core.kubernetes.clusters.items()
        if each.settings.joining is not None
    }
    return KubernetesJoining(
        clusters,
        trust_domain=settings.trust_domain,
        roster=core.roster,
        issuer=core.issuer,
        is_here=is_here,
        # Half the calls of callers without an identity: others join meanwhile, and ask for the bundle.
        room=Room(max(1, settings.limits.anonymous_calls // 2), clusters=len(clusters)),
        clock=core.clock,
    )


def _joining_of(cluster: Cluster, settings: NodeJoiningSettings, core: ServerCore) -> JoiningCluster:
    return JoiningCluster(
        accounts=frozenset(settings.service_accounts),
        reviewer=TokenReviewer(cluster.api, cluster=cluster.name, audience=settings.audience, clock=core.clock),
        places=Places(cluster.api, cluster.pods),
    )
