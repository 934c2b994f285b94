"""The credentials of all clusters, asked for by an entry and a name."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from ca.kubernetes.gateways.cluster import Answer, GatewayCluster
from ca.kubernetes.gateways.gateway import Gateway
from citadel.entry import Entry
from citadel.errors import PermissionDenied, Reason
from citadel.kubernetes.credential_names import CredentialName


class CredentialDesk:
    """Finds the cluster of the pod that an entry is there for: a gateway has credentials of its own cluster alone."""

    def __init__(self, clusters: Mapping[str, GatewayCluster]) -> None:
        self._clusters = clusters

    def look(self, entry: Entry, name: str, holder: asyncio.Event) -> Answer | None:
        """See `GatewayCluster.look`. Raises that also for what names nothing, and for a cluster without any."""
        gateway, parsed = Gateway.of(entry), CredentialName.parse(name)
        cluster = self._clusters.get(gateway.cluster)
        if cluster is None:
            raise PermissionDenied(
                Reason.CREDENTIAL_NOT_ALLOWED,
                f"gateways of {gateway.cluster} are given no credentials",
                fix="set gateways for this cluster in the server's settings",
            )
        return cluster.look(gateway, parsed, holder)

    def settle(self, holder: asyncio.Event) -> None:
        """The holder wants what it looked at since it last settled, and nothing else."""
        for cluster in self._clusters.values():
            cluster.settle(holder)
