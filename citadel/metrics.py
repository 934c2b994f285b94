"""What both processes measure alike, in the words of Prometheus. Each process has a registry of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import cache
from importlib.metadata import version
from typing import Any, Final

import grpc
from grpc import aio
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from citadel.clock import Clock
from citadel.interceptor import WrappingInterceptor, messages_of
from citadel.tally import Tally

# From a call in memory to one that waits for a disk or a person's patience.
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def new_registry() -> CollectorRegistry:
    """A registry with `process_*` and the version in it."""
    registry = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=registry)
    Gauge("citadel_build_info", "Always 1; the label says the version.", ["version"], registry=registry).labels(
        version("citadel")
    ).set(1)
    return registry


class RefusalCollector(Collector):
    """`citadel_refused_total` by reason code: as many series as there are codes."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def collect(self) -> Iterator[Metric]:
        refused = CounterMetricFamily("citadel_refused", "Refusals by reason code, since the start.", labels=["reason"])
        for reason, count in self._tally.refused.items():
            refused.add_metric([reason.value], count)
        yield refused


class CallMeter(WrappingInterceptor):
    """Counts handled calls by method and code, and measures those that answer once.

    Must stand before `citadel.rpc.ErrorBorder`, which settles the code. Only methods that exist are counted, so callers
    cannot make up series.
    """

    def __init__(self, registry: CollectorRegistry, *, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._handled = Counter(
            "citadel_grpc_server_handled",
            "Calls that ended, by method and status code.",
            ["method", "code"],
            registry=registry,
        )
        self._seconds = Histogram(
            "citadel_grpc_server_handling_seconds",
            "How long calls with one answer took.",
            ["method"],
            registry=registry,
            buckets=SECONDS,
        )

    def unary(self, method: str, behaviour: Any) -> Callable[[Any, Any], Awaitable[Any]]:
        method = method.lstrip("/")
        seconds, handled = self._seconds.labels(method), self._handled_by_code(method)

        async def call(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
            begun, ended_well = self._clock.monotonic(), False
            try:
                answer = await behaviour(request, context)
                ended_well = True
                return answer
            finally:
                seconds.observe(self._clock.monotonic() - begun)
                handled(_code_of(context, ended_well=ended_well)).inc()

        return call

    def streaming(self, method: str, behaviour: Any) -> Callable[[Any, Any], AsyncIterator[Any]]:
        handled = self._handled_by_code(method.lstrip("/"))

        async def call(request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            ended_well = False
            try:
                async for message in messages_of(behaviour, request, context):
                    yield message
                ended_well = True
            finally:
                handled(_code_of(context, ended_well=ended_well)).inc()

        return call

    def _handled_by_code(self, method: str) -> Callable[[str], Counter]:
        """The counter of a method by the name of the code, looked up among all series only once."""
        return cache(lambda code: self._handled.labels(method, code))


def _code_of(context: Any, *, ended_well: bool) -> str:
    """The name of the code that the caller is told; a call that was cut without one was cancelled."""
    code = context.code()
    if not code and ended_well:
        return grpc.StatusCode.OK.name
    number = code.value[0] if isinstance(code, grpc.StatusCode) else int(code or 0)
    if number == 0 and not ended_well:
        return grpc.StatusCode.CANCELLED.name
    return _NAMES.get(number, grpc.StatusCode.UNKNOWN.name)


_NAMES: Final = {code.value[0]: code.name for code in grpc.StatusCode}
