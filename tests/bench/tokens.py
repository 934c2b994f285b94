"""`FetchJWTSVID` of a program that asks again and again: answered from the agent's cache, over its real socket."""

from __future__ import annotations

import os
import time
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

from grpc import aio

from citadel._wire.workload_pb2 import JWTSVIDRequest
from citadel._wire.workload_pb2_grpc import SpiffeWorkloadAPIStub
from sds.workload.header import HEADER
from tests.bench.effort import Effort
from tests.bench.machine import Cores
from tests.bench.processes import server_process
from tests.bench.push import running_agent
from tests.bench.report import Row

_CALLS_A_PUSH: Final = 10  # one call is short
_ASKED: Final = JWTSVIDRequest(audience=["bench"])


async def cached_tokens(folder: Path, cores: Cores, effort: Effort) -> list[Row]:
    """From the call to the token in hand, one call after the other on one connection."""
    async with (
        server_process(folder / "server", cores) as (server, _),
        running_agent(folder / "agent", server, cores) as socket,
        aio.insecure_channel(f"unix:{socket}") as channel,
    ):
        await server.entry("/asks", "spiffe://a.test/citadel/agent/node-1", f"unix:uid:{os.geteuid()}")
        api: Any = SpiffeWorkloadAPIStub(channel)
        first = await _token(api)
        taken, tokens = [], set()
        for _ in range(effort.pushes * _CALLS_A_PUSH):
            begun = time.perf_counter()
            tokens.add(await _token(api))
            taken.append((time.perf_counter() - begun) * 1000)
    assert tokens == {first}, "these were not all from the cache"
    cuts = quantiles(taken[len(taken) // 10 :], n=100, method="inclusive")  # the first ones warm up
    what, note = "FetchJWTSVID from the agent's cache", f"{len(taken)} calls; p99 {cuts[98]:.2f} ms"
    return [Row(what=f"{what}: p50", value=cuts[49], unit="ms", goal=2, at_most=True, note=note)]


async def _token(api: Any) -> str:
    answer = await api.FetchJWTSVID(_ASKED, metadata=(HEADER,), wait_for_ready=True)
    return str(answer.svids[0].svid)
