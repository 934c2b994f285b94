"""The recipes of deploy/multicluster as tests run them: two workloads of a cluster, one behind its gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from citadel.spiffe import SpiffeId
from tests.clusters.bootstraps import Bootstrap
from tests.clusters.cluster import Cluster
from tests.clusters.proxy import Proxy

INBOUND_PORT: Final = 9443
GATEWAY_PORT: Final = 15443
_HIDDEN_PORT: Final = 9444  # of what is reached through the gateway alone

Naming = Callable[[Cluster, str], SpiffeId]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What runs in one cluster. `web` is reached directly, `shop` through the gateway."""

    cluster: Cluster
    web: Proxy
    shop: Proxy
    gateway: Proxy

    @property
    def proxies(self) -> tuple[Proxy, Proxy]:
        """Those with an identity."""
        return self.web, self.shop


def name_of(cluster: Cluster) -> str:
    """What is asked for at the gateway of `cluster`, in the form that Istio's Envoys ask in."""
    return f"outbound_.9080_._.shop.{cluster.name}.svc.cluster.local"


async def start_recipes(
    here: Cluster, there: Cluster, *, naming: Naming, federates_with: Sequence[str] = (), callers: Sequence[str] = ()
) -> Side:
    """Start them in `here`, calling those `there`; `naming` says who they are, and `callers` may call too."""
    web = _sidecar(here, there, "web", naming, callers)
    web.listen("inbound", (here.place.address, INBOUND_PORT))
    web.point("service", (there.place.address, INBOUND_PORT))
    shop = _sidecar(here, there, "shop", naming, callers)
    shop.listen("inbound", (here.place.inner, _HIDDEN_PORT))
    shop.point("service", (there.place.address, GATEWAY_PORT))
    shop.ask_for(name_of(there))
    gateway = Bootstrap("gateway.yaml")
    gateway.listen("east_west", (here.place.address, GATEWAY_PORT))
    gateway.pass_on(name_of(here))
    gateway.point("web", (here.place.inner, _HIDDEN_PORT))
    started = await asyncio.gather(
        here.workload(naming(here, "web"), web, federates_with=federates_with),
        here.workload(naming(here, "shop"), shop, federates_with=federates_with),
        here.gateway(gateway),
    )
    return Side(cluster=here, web=started[0], shop=started[1], gateway=started[2])


def _sidecar(here: Cluster, there: Cluster, name: str, naming: Naming, callers: Sequence[str]) -> Bootstrap:
    made = Bootstrap("sidecar.yaml")
    made.pin_callers([str(naming(here, name)), str(naming(there, name)), *callers])
    made.pin_service(str(naming(there, name)))
    return made
