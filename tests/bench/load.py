"""Certificate requests sent to a server: made beforehand, so many in flight, each answer timed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from statistics import quantiles

from citadel._wire import agent_api_pb2, agent_api_pb2_grpc
from tests.bench.machine import Watch
from tests.csrs import csr
from tests.servers import Member, Server

SignRequest = agent_api_pb2.SignX509SvidsRequest
Ask = Callable[[], Awaitable[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a span of load came to. Times in milliseconds; shares of one core."""

    per_second: float
    p50: float
    p99: float
    server_cpu: float
    load_cpu: float


async def measure(ask: Ask, *, in_flight: int, seconds: float, server: int) -> Measured:
    """Keep `in_flight` calls of `ask` going for `seconds`; it answers how much it got done."""
    until, taken, done = time.perf_counter() + seconds, [], 0
    watch = Watch(server)

    async def one_after_another() -> None:
        nonlocal done
        while (begun := time.perf_counter()) < until:
            issued = await ask()
            done += issued  # only now: others counted while this one waited
            taken.append(time.perf_counter() - begun)

    await asyncio.gather(*(one_after_another() for _ in range(in_flight)))
    elapsed, server_cpu, load_cpu = watch.elapsed()
    cuts = quantiles(taken, n=100, method="inclusive")
    return Measured(
        per_second=done / elapsed,
        p50=cuts[49] * 1000,
        p99=cuts[98] * 1000,
        server_cpu=server_cpu,
        load_cpu=load_cpu,
    )


@dataclass(frozen=True)
class Mesh:
    """Agents with their entries at a server, and requests for them."""

    members: Sequence[Member]
    agents: Sequence[agent_api_pb2_grpc.AgentApiAsyncStub]
    entries: Sequence[Sequence[str]]
    requests: Sequence[bytes]

    def asking(self, batch: int) -> Ask:
        """Sends a batch each time it is called, for one agent after another."""
        stubs = cycle(
            (stub.SignX509Svids, self._batch(entries, batch, offset))
            for offset in range(8)
            for stub, entries in zip(self.agents, self.entries, strict=True)
        )

        async def ask() -> int:
            sign, message = next(stubs)
            answer = await sign(message)
            issued = sum(result.WhichOneof("result") == "svid" for result in answer.results)
            if issued != batch:
                raise AssertionError(f"{batch - issued} of {batch} were refused: {answer.results[0].refusal}")
            return issued

        return ask

    def _batch(self, entries: Sequence[str], size: int, offset: int) -> SignRequest:
        picks = range(offset * size, (offset + 1) * size)
        return SignRequest(
            requests=[
                agent_api_pb2.X509SvidRequest(
                    entry_id=entries[pick % len(entries)], csr=self.requests[pick % len(self.requests)]
                )
                for pick in picks
            ]
        )


async def make_mesh(server: Server, *, agents: int = 4, entries: int = 100, requests: int = 500) -> Mesh:
    """Join `agents`, make `entries` for each, and prepare `requests`."""
    members = [await server.join(f"node-{number}") for number in range(agents)]
    made = [[(await server.entry(f"/workload-{n}", member)).id for n in range(entries)] for member in members]
    return Mesh(members, [server.agents(member) for member in members], made, [csr() for _ in range(requests)])
