"""What it costs to follow many foreign trust domains: the processor time of their refreshes, at rest otherwise."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Final

from grpc import aio

from citadel._wire import federation_pb2 as pb
from citadel._wire import types_pb2
from citadel._wire.federation_pb2_grpc import FederationsStub
from citadel.bundle import TrustBundle
from citadel.spiffe import TrustDomain
from tests.bench.effort import Effort
from tests.bench.machine import Cores, Watch
from tests.bench.processes import server_process
from tests.bench.report import Row
from tests.certificates import root
from tests.foreign import Endpoint, ForeignDomain, endpoint_of, times
from tests.servers import Server

_DOMAINS: Final = 100
_HINT: Final = timedelta(minutes=1)


async def federation(folder: Path, cores: Cores, effort: Effort) -> list[Row]:
    """A server at rest, and with 100 federations of 3 roots each, by https_spiffe, whose refresh hint is a minute."""
    async with AsyncExitStack() as stack:
        server, pid = await stack.enter_async_context(server_process(folder / "server", cores))
        domains = [ForeignDomain(TrustDomain(f"domain-{number}.test")) for number in range(_DOMAINS)]
        endpoints = [await stack.enter_async_context(endpoint_of(domain)) for domain in domains]
        await asyncio.sleep(2)
        span = effort.hints * _HINT.total_seconds()  # as long for both: what comes once a minute is in both
        at_rest = await _share(pid, span)
        await _federate(server, list(zip(domains, endpoints, strict=True)))
        before = sum(len(endpoint.server.asked) for endpoint in endpoints)
        share = await _share(pid, span)
        fetched = sum(len(endpoint.server.asked) for endpoint in endpoints) - before
        failing = sum(not each.good for each in (await server.status()).federations)
    assert not failing, f"{failing} federations fail"
    assert fetched >= _DOMAINS * effort.hints, f"only {fetched} fetches"
    return [
        Row(what="a server at rest, without federation: share of a core", value=at_rest * 100, unit="%"),
        Row(
            what=f"refreshing {_DOMAINS} federated domains of 3 roots each, every minute: share of a core beyond that",
            value=(share - at_rest) * 100,
            unit="%",
            goal=1,
            at_most=True,
            note=f"{fetched} fetches in {effort.hints} min, each over a TLS connection of its own and with nothing "
            f"new, at {(share - at_rest) * span / fetched * 1000:.1f} ms of a core; the whole server takes "
            f"{share * 100:.2f} %",
        ),
    ]


def _bundle(domain: ForeignDomain) -> TrustBundle:
    name = domain.trust_domain.name
    further = [root(f"{nth} of {name}", f"spiffe://{name}", **times()) for nth in ("second", "third")]
    return domain.bundle(*further, sequence=1, refresh_hint=_HINT)


async def _federate(server: Server, all_of_them: list[tuple[ForeignDomain, Endpoint]]) -> None:
    """Each begins with the bundle that its endpoint serves: what is measured are fetches that find nothing new."""
    async with aio.insecure_channel(f"unix:{server.settings.listen.admin_socket}") as channel:
        for domain, endpoint in all_of_them:
            name, document = domain.trust_domain.name, _bundle(domain).to_json()
            endpoint.answers(document)
            made = await FederationsStub(channel).CreateFederation(
                pb.CreateFederationRequest(
                    trust_domain=name,
                    endpoint_url=endpoint.url,
                    profile="https_spiffe",
                    endpoint_spiffe_id=f"spiffe://{name}/endpoint",
                    bootstrap=types_pb2.Bundle(trust_domain=name, json=document),
                    why="a measurement",
                )
            )
            assert not made.last_reason, made.last_error


async def _share(pid: int, seconds: float) -> float:
    watch = Watch(pid)
    await asyncio.sleep(seconds)
    return watch.elapsed()[1]
