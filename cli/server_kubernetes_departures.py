"""Agents whose nodes have left their clusters, wired onto the work in these."""

from __future__ import annotations

from ca.agents.roster import AgentRoster
from ca.kubernetes.departures import Departures
from ca.kubernetes.nodes import Places
from citadel.clock import Clock
from cli.server_kubernetes import KubernetesAffairs


def hang_departures(kubernetes: KubernetesAffairs, *, roster: AgentRoster, clock: Clock) -> None:
    """Watch over the agents of each cluster that agents may join from."""
    for cluster in kubernetes.clusters.values():
        if cluster.settings.joining is not None:
            places = Places(cluster.api, cluster.pods)
            departures = Departures(cluster=cluster.name, roster=roster, places=places, clock=clock)
            cluster.work["agents that have left"] = departures.run
