"""How it is with the clusters below, for probes and status. Pure, but for where the facts come from."""

from __future__ import annotations

from ca.clusters.beyond import Children
from ca.clusters.records import ChildRecords
from ca.clusters.twins import Twins
from citadel.probes import Check, Health


def clusters_check(children: Children, records: ChildRecords, twins: Twins) -> Check:
    """Degraded while none of those that there are is connected, or one is two, or nobody knows what one revoked."""
    connected, away = children.counts()
    how_many = f"{connected} of {connected + away} connected"
    missing = next(records.missing(), "")
    if missing:
        return Check("child clusters", Health.DEGRADED, f"{how_many}; no revocation lists are pushed: {missing}")
    if two := sorted(map(str, twins.certain())):
        return Check("child clusters", Health.DEGRADED, f"{how_many}; two servers come as {two[0]}")
    return Check("child clusters", Health.DEGRADED if away and not connected else Health.GOOD, how_many)
