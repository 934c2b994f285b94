"""`CreateCertificate` of Istio's proxies by the second, with tokens that a real API server has reviewed before."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import cycle
from pathlib import Path
from typing import Final

from citadel._wire import istio_ca_pb2 as pb
from citadel._wire import istio_ca_pb2_grpc
from tests.bench.effort import Effort
from tests.bench.issuing import SINGLES, middle, ratio, told, warm
from tests.bench.load import Ask, Measured, make_mesh, measure
from tests.bench.machine import Cores
from tests.bench.processes import server_process
from tests.bench.report import Row
from tests.csrs import csr
from tests.istio_proxy import pem_of
from tests.kube_api import KubernetesServer, running_kubernetes
from tests.servers import Server

_PROXIES: Final = 64  # calls in flight: proxies that begin at once
_ACCOUNTS: Final = 100
_CONNECTIONS: Final = 8
_REQUESTS: Final = 500
_KEPT: Final = "60s"  # answers are had before the measuring and reviewed again meanwhile, which counts


async def istio(folder: Path, cores: Cores, effort: Effort) -> list[Row]:
    """Proxies one by one, beside an agent's single requests at the same server."""
    proxies: list[Measured] = []
    singles: list[Measured] = []
    (folder / "kubernetes").mkdir(parents=True)
    async with AsyncExitStack() as stack:
        kubernetes = stack.enter_context(running_kubernetes(folder / "kubernetes"))
        tokens = await asyncio.to_thread(_tokens, kubernetes)
        cluster = {
            "name": "main",
            "api": {"kubeconfig": str(kubernetes.kubeconfig(folder / "kubeconfig"))},
            "istio": {"cache": _KEPT},
        }
        server, pid = await stack.enter_async_context(
            server_process(folder / "server", cores, kubernetes={"clusters": [cluster]})
        )
        mesh, ask = await make_mesh(server), _asking(server, tokens)
        await warm(mesh, pid)
        for _ in range(effort.rounds):
            await asyncio.gather(*(ask() for _ in tokens))
            proxies.append(await measure(ask, in_flight=_PROXIES, seconds=effort.seconds, server=pid))
            singles.append(await measure(mesh.asking(1), in_flight=SINGLES, seconds=effort.seconds, server=pid))
    rates = ([each.per_second for each in runs] for runs in (proxies, singles))
    return [
        Row(
            what=f"CreateCertificate of Istio's proxies, TokenReviews kept, {_PROXIES} in flight",
            value=middle(proxies, "per_second"),
            unit="/s",
            goal=1500,
            note=told(proxies),
        ),
        Row(
            what=f"of it against an agent's single requests at the same server, {SINGLES} in flight",
            value=ratio(*rates),
            unit="x",
            note=told(singles),
        ),
    ]


def _tokens(kubernetes: KubernetesServer) -> Sequence[str]:
    kubernetes.namespace("bench")
    found = []
    for number in range(_ACCOUNTS):
        kubernetes.account("bench", f"a{number}")
        pod = kubernetes.pod("bench", f"p{number}", account=f"a{number}", node="n1")
        found.append(kubernetes.token("bench", f"a{number}", audience="istio-ca", pod=pod))
    return found


def _asking(server: Server, tokens: Sequence[str]) -> Ask:
    """One call each time it is called, for one pod after another, over several connections."""
    stubs = [
        istio_ca_pb2_grpc.IstioCertificateServiceStub(server.tls(server.settings.listen.bootstrap))
        for _ in range(_CONNECTIONS)
    ]
    requests = [pb.IstioCertificateRequest(csr=pem_of(csr())) for _ in range(_REQUESTS)]
    calls = zip(cycle(stubs), cycle(requests), cycle([(("authorization", f"Bearer {each}"),) for each in tokens]))

    async def ask() -> int:
        stub, request, metadata = next(calls)
        answer = await stub.CreateCertificate(request, metadata=metadata)
        if len(answer.cert_chain) < 2:
            raise AssertionError("an answer without a chain")
        return 1

    return ask
