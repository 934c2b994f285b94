"""The recipes of deploy/multicluster with real processes: two clusters, each in a network of its own."""

from __future__ import annotations

import asyncio

import pytest

from citadel.spiffe import TrustDomain
from tests.clusters.bootstraps import Bootstrap
from tests.clusters.cluster import INBOUND_PORT, Cluster
from tests.clusters.running import Wanted, clusters

pytestmark = pytest.mark.integration

EAST, WEST = TrustDomain("east.example"), TrustDomain("west.example")


def direct(here: Cluster, there: Cluster) -> Bootstrap:
    made = Bootstrap("sidecar.yaml")
    made.listen("inbound", (here.place.address, INBOUND_PORT))
    made.point("service", (there.place.address, INBOUND_PORT))
    made.pin_callers([str(each.trust_domain.member("web")) for each in (here, there)])
    made.pin_service(str(there.trust_domain.member("web")))
    return made


async def test_clusters_that_do_not_know_each_other_refuse_each_other() -> None:
    async with clusters([Wanted(name="east", trust_domain=EAST), Wanted(name="west", trust_domain=WEST)]) as (
        east,
        west,
    ):
        here, there = await asyncio.gather(
            east.workload("web", direct(east, west)), west.workload("web", direct(west, east))
        )
        assert "503" in await here.refusal()
        assert "503" in await there.refusal()
        assert await there.admin.stat("ssl.fail_verify_error") > 0
