"""Credentials of gateways, wired: the secrets of each cluster whose settings ask for it, and the door to them."""

from __future__ import annotations

from ca.agents.roster import AgentRoster
from ca.api.credentials import CredentialStreams
from ca.entries.directory import EntryDirectory
from ca.kubernetes.gateways.cluster import GatewayCluster
from ca.kubernetes.gateways.desk import CredentialDesk
from citadel.clock import Clock
from citadel.tally import Tally
from cli.server_kubernetes import KubernetesAffairs


def hang_gateways(kubernetes: KubernetesAffairs, *, clock: Clock) -> None:
    """Have credentials for the gateways of each cluster whose settings ask for it."""
    for cluster in kubernetes.clusters.values():
        if (settings := cluster.settings.gateways) is not None:
            gateways = GatewayCluster(cluster.name, settings, api=cluster.api, pods=cluster.pods, clock=clock)
            cluster.work["credentials of gateways"] = gateways.run
            kubernetes.gateways[cluster.name] = gateways
            cluster.notes.append(gateways.notes)
            cluster.tell_of(gateways.basis, clock=clock)


def credential_streams(
    kubernetes: KubernetesAffairs, *, roster: AgentRoster, directory: EntryDirectory, tally: Tally, clock: Clock
) -> CredentialStreams:
    """What agents ask for the gateways on their nodes; where no cluster has any it refuses each by itself."""
    desk = CredentialDesk(kubernetes.gateways)
    return CredentialStreams(desk=desk, roster=roster, directory=directory, tally=tally, clock=clock)
