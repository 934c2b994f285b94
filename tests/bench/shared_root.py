"""From a parent's bundle change to a proxy in a child cluster: the child's server, its agent, an SDS stream."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.secret.v3 import sds_pb2_grpc
from grpc import aio

from citadel._wire import federation_pb2, federation_pb2_grpc, types_pb2
from citadel.bundle import TrustBundle
from citadel.spiffe import TrustDomain
from sds.serve.resource import SECRET_TYPE_URL
from tests import certificates
from tests.bench.effort import Effort
from tests.bench.machine import Cores
from tests.bench.processes import server_process
from tests.bench.push import running_agent
from tests.bench.report import Row
from tests.servers import Server

_DOMAIN: Final = TrustDomain("a.test")
_PATIENCE: Final = 20.0
_PAUSE: Final = 0.05  # between one change and the next


async def shared_root(folder: Path, cores: Cores, effort: Effort) -> list[Row]:
    """The time from the call that changes the parent's bundle to the changed bundle on an SDS stream below."""
    async with (
        server_process(folder / "parent", cores) as (parent, _),
        running_agent(folder / "parents-agent", parent, cores) as workload_api,
        _child(folder, parent, workload_api, cores) as child,
        running_agent(folder / "agent", child, cores) as socket,
        aio.insecure_channel(f"unix:{socket}") as channel,
        aio.insecure_channel(f"unix:{parent.settings.listen.admin_socket}") as admin,
    ):
        await child.entry("/web", "spiffe://a.test/citadel/agent/node-1", f"unix:uid:{os.geteuid()}")
        stream: Any = sds_pb2_grpc.SecretDiscoveryServiceStub(channel).StreamSecrets()
        await stream.write(discovery_pb2.DiscoveryRequest(type_url=SECRET_TYPE_URL, resource_names=["ROOTCA"]))
        await _received(stream, b"")
        bundles = federation_pb2_grpc.BundlesStub(admin)
        taken = [await _changed_and_received(bundles, stream) for _ in range(effort.pushes)]
        stream.cancel()
    cuts = quantiles(taken[len(taken) // 10 :], n=100, method="inclusive")  # the first ones warm up
    what = "a parent's bundle change to an SDS stream in a child cluster"
    return [
        Row(what=f"{what}: p50", value=cuts[49], unit="ms", note=f"{len(taken)} changes"),
        Row(what=f"{what}: p99", value=cuts[98], unit="ms", goal=500, at_most=True),
    ]


@asynccontextmanager
async def _child(folder: Path, parent: Server, workload_api: Path, cores: Cores) -> AsyncIterator[Server]:
    agent = "spiffe://a.test/citadel/agent/node-1"
    await parent.entry("/clusters/child", agent, f"unix:uid:{os.geteuid()}", downstream=True)
    address = str(parent.settings.listen.agents)
    upstream = {"citadel": {"address": address, "workload_api": str(workload_api)}}
    async with server_process(folder / "child", cores, upstream=upstream) as (child, _):
        yield child


async def _changed_and_received(bundles: federation_pb2_grpc.BundlesAsyncStub, stream: Any) -> float:
    """The parent trusts another root for its workloads, of which nothing else is to be known."""
    now = datetime.now(UTC)
    root = certificates.root("exchanged", not_before=now - timedelta(hours=1), not_after=now + timedelta(days=1))
    bundle = TrustBundle(trust_domain=_DOMAIN, x509_authorities=(root.certificate,))
    request = federation_pb2.SetBundleRequest(
        bundle=types_pb2.Bundle(trust_domain=_DOMAIN.name, json=bundle.to_json()), own_domain=True, why="a benchmark"
    )
    await asyncio.sleep(_PAUSE)
    begun = time.perf_counter()
    setting = asyncio.ensure_future(bundles.SetBundle(request))
    await _received(stream, root.certificate.public_bytes(Encoding.PEM))
    taken = (time.perf_counter() - begun) * 1000
    await setting
    return taken


async def _received(stream: Any, wanted: bytes) -> None:
    """Read and acknowledge until this is in what came."""
    async with asyncio.timeout(_PATIENCE):
        while True:
            response = await stream.read()
            await stream.write(
                discovery_pb2.DiscoveryRequest(
                    type_url=SECRET_TYPE_URL,
                    resource_names=["ROOTCA"],
                    version_info=response.version_info,
                    response_nonce=response.nonce,
                )
            )
            if any(wanted in resource.value for resource in response.resources):
                return
