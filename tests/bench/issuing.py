"""Certificates by the second: through the whole server, beside the bare arithmetic, OpenBao, and less of a ledger.

What is compared takes turns within each round, so that whatever else the machine does falls on all of them; what is
reported is the median over the rounds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median, quantiles
from typing import Final

import grpc

from citadel._wire import agent_api_pb2, agent_api_pb2_grpc
from citadel.reserved import SERVER_DNS_NAME
from tests.bench.bare import bare_rate
from tests.bench.effort import Effort
from tests.bench.load import Measured, Mesh, make_mesh, measure
from tests.bench.machine import Cores, confine
from tests.bench.openbao import openbao
from tests.bench.processes import server_process
from tests.bench.report import Row
from tests.servers import Server

SINGLES: Final = 32  # calls in flight
BATCHES: Final = 4
BATCH: Final = 100


async def throughput(folder: Path, cores: Cores, effort: Effort) -> list[Row]:
    """Batches and single requests, beside the bare rate and OpenBao."""
    bare: list[float] = []
    singles, batches, others, wide = ([] for _ in range(4))
    async with AsyncExitStack() as stack:
        server, pid = await stack.enter_async_context(server_process(folder / "server", cores))
        bao = await stack.enter_async_context(openbao(folder / "openbao", cores))
        mesh = await make_mesh(server)
        sign = await stack.enter_async_context(bao.signing(in_flight=SINGLES))
        await warm(mesh, pid)
        for _ in range(effort.rounds):
            before = bare_rate(cores, seconds=effort.seconds / 4)
            batches.append(await measure(mesh.asking(BATCH), in_flight=BATCHES, seconds=effort.seconds, server=pid))
            bare.append((before + bare_rate(cores, seconds=effort.seconds / 4)) / 2)
            singles.append(await measure(mesh.asking(1), in_flight=SINGLES, seconds=effort.seconds, server=pid))
            others.append(await measure(sign, in_flight=SINGLES, seconds=effort.seconds, server=bao.pid))
            confine(bao.pid, {cores.server, cores.load})
            wide.append(await measure(sign, in_flight=SINGLES, seconds=effort.seconds / 2, server=bao.pid))
            confine(bao.pid, {cores.server})
    return [
        Row(
            what=f"certificates in batches of {BATCH}, {BATCHES} in flight, of the bare sign + verify rate",
            value=100 * ratio([each.per_second for each in batches], bare),
            unit="%",
            goal=40,
            note=f"{told(batches)}; bare {median(bare):,.0f}/s on the same core; the aim is 50 %",
        ),
        Row(
            what=f"single requests, {SINGLES} in flight",
            value=middle(singles, "per_second"),
            unit="/s",
            goal=2000,
            note=told(singles),
        ),
        Row(
            what=f"single requests, {SINGLES} in flight: p99",
            value=middle(singles, "p99"),
            unit="ms",
            goal=50,
            at_most=True,
        ),
        *beside_openbao("", singles, batches, others),
        Row(
            what="for comparison: OpenBao pki/sign on both cores",
            value=middle(wide, "per_second"),
            unit="/s",
            note=told(wide),
        ),
    ]


def beside_openbao(
    where: str, singles: Sequence[Measured], batches: Sequence[Measured], others: Sequence[Measured]
) -> list[Row]:
    """Ours against what OpenBao signs itself, `others`; `where` is what is special about ours."""
    theirs = [each.per_second for each in others]
    how = f"raft storage, TLS on loopback, {SINGLES} open HTTP connections"
    return [
        Row(
            what=f"{where}single requests against OpenBao pki/sign",
            value=ratio([each.per_second for each in singles], theirs),
            unit="x",
            goal=1,
            note=f"{told(singles)}; OpenBao on the same core ({how}): {told(others)}",
        ),
        Row(
            what=f"{where}batches of {BATCH} against OpenBao pki/sign",
            value=ratio([each.per_second for each in batches], theirs),
            unit="x",
            goal=4,
            note=told(batches),
        ),
    ]


async def ledger_cost(folder: Path, cores: Cores, effort: Effort) -> list[Row]:
    """What the ledger takes from the throughput, by servers that have less of one."""
    async with AsyncExitStack() as stack:
        meshes = {}
        for kind, module in {
            "product": ("-m", "cli.entry"),
            "unchained": ("-m", "tests.bench.variant", "unchained"),
            "null": ("-m", "tests.bench.variant", "null"),
        }.items():
            server, pid = await stack.enter_async_context(server_process(folder / kind, cores, module=module))
            meshes[kind] = (await make_mesh(server), pid)
            await warm(*meshes[kind])
        rates: dict[str, list[float]] = {kind: [] for kind in meshes}
        for number in range(effort.rounds):
            order = list(meshes) if number % 2 == 0 else list(reversed(meshes))
            for kind in order:
                mesh, pid = meshes[kind]
                measured = await measure(mesh.asking(BATCH), in_flight=BATCHES, seconds=effort.seconds, server=pid)
                rates[kind].append(measured.per_second)
    middles = ", ".join(f"{kind} {median(values):,.0f}/s" for kind, values in rates.items())
    return [
        Row(
            what="hash chain and ledger: cost of the throughput without them",
            value=100 * (1 - ratio(rates["product"], rates["null"])),
            unit="%",
            goal=10,
            at_most=True,
            note=f"batches of {BATCH}, {BATCHES} in flight: {middles}",
        ),
        Row(
            what="of it the hash chain",
            value=100 * (1 - ratio(rates["product"], rates["unchained"])),
            unit="%",
        ),
    ]


async def small_calls(folder: Path, cores: Cores, effort: Effort) -> list[Row]:
    """An empty batch, one call at a time, while batches of 500 are signed."""
    async with server_process(folder / "server", cores) as (server, pid):
        mesh = await make_mesh(server, agents=2, entries=50)
        await warm(mesh, pid)
        seconds = effort.seconds * effort.rounds
        taken, load = await asyncio.gather(
            asyncio.to_thread(_small_calls, server, mesh, seconds),
            measure(mesh.asking(500), in_flight=2, seconds=seconds, server=pid),
        )
    cuts = quantiles(taken, n=100, method="inclusive")
    return [
        Row(
            what="a small call while batches of 500 run, 2 in flight: p99",
            value=cuts[98],
            unit="ms",
            goal=50,
            at_most=True,
            note=f"p50 {cuts[49]:.1f} ms of {len(taken)} calls; the batches: {told([load])}",
        )
    ]


def _small_calls(server: Server, mesh: Mesh, seconds: float) -> list[float]:
    """Milliseconds of each call. On a thread and a channel of its own: the batches' answers must not hold it up."""
    member = mesh.members[0]
    credentials = grpc.ssl_channel_credentials(server.bundle.to_pem(), member.key_pem, member.chain_pem)
    options = [("grpc.ssl_target_name_override", SERVER_DNS_NAME), ("grpc.use_local_subchannel_pool", 1)]
    taken, until = [], time.perf_counter() + seconds
    with grpc.secure_channel(str(server.settings.listen.agents), credentials, options=options) as channel:
        stub = agent_api_pb2_grpc.AgentApiStub(channel)
        stub.SignX509Svids(agent_api_pb2.SignX509SvidsRequest())
        while (begun := time.perf_counter()) < until:
            stub.SignX509Svids(agent_api_pb2.SignX509SvidsRequest())
            taken.append((time.perf_counter() - begun) * 1000)
            time.sleep(0.003)
    return taken


async def warm(mesh: Mesh, pid: int) -> None:
    """Have a server do a little of everything before it is measured."""
    await measure(mesh.asking(10), in_flight=2, seconds=0.5, server=pid)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over the rounds of what was measured in the same round."""
    return median(mine / other for mine, other in zip(ours, theirs, strict=True))


def middle(runs: Sequence[Measured], what: str) -> float:
    """The median over the rounds."""
    return float(median(getattr(run, what) for run in runs))


def told(runs: Sequence[Measured]) -> str:
    """Rate, latencies and processor time, for a note."""
    return (
        f"{middle(runs, 'per_second'):,.0f}/s, p50 {middle(runs, 'p50'):.0f} ms, p99 {middle(runs, 'p99'):.0f} ms, "
        f"CPU server {middle(runs, 'server_cpu'):.0%}, load {middle(runs, 'load_cpu'):.0%}"
    )
