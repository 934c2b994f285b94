"""What the agent measures. Labels are bounded: protocols and reasons, never an identity or a pid."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from citadel.clock import Clock
from citadel.errors import CitadelError
from citadel.interceptor import WrappingInterceptor
from citadel.metrics import SECONDS
from sds.agent import AgentCondition
from sds.answer_meter import AnswerMeter
from sds.holdings import HoldingsFeed
from sds.keep.signer import Signed, Signer, SigningRequest

_SDS: Final = "/envoy.service.secret.v3.SecretDiscoveryService"
# The streams that are open for long, by the protocol as it is reported to the server.
_PROTOCOLS: Final = {
    f"{_SDS}/StreamSecrets": "sds",
    f"{_SDS}/DeltaSecrets": "sds-delta",
    "/SpiffeWorkloadAPI/FetchX509SVID": "workload-api",
    "/SpiffeWorkloadAPI/FetchX509Bundles": "workload-api",
    "/SpiffeWorkloadAPI/FetchJWTBundles": "workload-api",
}


class AgentCollector(Collector):
    """Reads the state of the agent at each scrape, so that nothing has to be kept in step."""

    def __init__(self, *, condition: AgentCondition, feed: HoldingsFeed, clock: Clock) -> None:
        self._condition = condition
        self._feed = feed
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        holdings, now = self._feed.current, self._clock.now()
        wanted = [entry for entry in holdings.entries.values() if not entry.has_expired(now)]
        held = [holdings.svids[entry.id] for entry in wanted if entry.id in holdings.svids]
        yield GaugeMetricFamily("citadel_agent_svids_wanted", "Entries that need an SVID.", value=len(wanted))
        yield GaugeMetricFamily("citadel_agent_svids_held", "Entries that have an SVID.", value=len(held))
        if held:
            yield GaugeMetricFamily(
                "citadel_agent_first_expiry_timestamp_seconds",
                "When the first SVID that is held ends, in seconds since 1970.",
                value=min(each.svid.not_after for each in held).timestamp(),
            )
        if self._condition.identity is not None:
            yield GaugeMetricFamily(
                "citadel_agent_identity_not_after_timestamp_seconds",
                "When the agent's own SVID ends, in seconds since 1970.",
                value=self._condition.identity.current.svid.not_after.timestamp(),
            )
        yield GaugeMetricFamily(
            "citadel_agent_server_connected",
            "1 while the server tells of changes at once.",
            value=int(self._condition.is_connected),
        )


class MeteredSigner:
    """Fulfils `sds.keep.signer.Signer` by another one, and counts what it answers."""

    def __init__(self, signer: Signer, *, registry: CollectorRegistry, clock: Clock) -> None:
        self._signer = signer
        self._waiting = Gauge(
            "citadel_agent_signing_queue", "Requests that the server has not answered yet.", registry=registry
        )
        self._meter = AnswerMeter(
            signed=Counter("citadel_agent_svid_renewals", "SVIDs that the server signed.", registry=registry),
            refused=Counter(
                "citadel_agent_signing_refused",
                "Requests that the server refused or did not answer, by reason code.",
                ["reason"],
                registry=registry,
            ),
            seconds=Histogram(
                "citadel_agent_signing_seconds",
                "How long the server took to answer a batch.",
                registry=registry,
                buckets=SECONDS,
            ),
            clock=clock,
        )

    async def sign(self, requests: Sequence[SigningRequest], *, within: timedelta) -> Sequence[Signed | CitadelError]:
        """See `Signer.sign`."""
        self._waiting.inc(len(requests))
        try:
            return await self._meter.measured(self._signer.sign(requests, within=within), size=len(requests))
        finally:
            self._waiting.dec(len(requests))


class StreamMeter(WrappingInterceptor):
    """Counts the workloads' streams, what is pushed on them, and how long proxies take to acknowledge it.

    It reads the messages as they pass: xDS requests answer a response by its nonce, with an error where it is refused.
    """

    def __init__(self, registry: CollectorRegistry, *, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._open = Gauge("citadel_agent_streams", "Open streams of workloads.", ["protocol"], registry=registry)
        for protocol in sorted(set(_PROTOCOLS.values())):
            self._open.labels(protocol)
        self._pushes = Counter("citadel_agent_pushes", "Messages sent to workloads.", ["protocol"], registry=registry)
        self._refusals = Counter("citadel_agent_refused_by_proxies", "Pushes that a proxy refused.", registry=registry)
        self._refusing = Gauge(
            "citadel_agent_streams_refusing", "Streams whose last answer was a refusal.", registry=registry
        )
        self._lag = Histogram(
            "citadel_agent_acknowledgement_seconds",
            "From a push to its acknowledgement.",
            registry=registry,
            buckets=SECONDS,
        )

    def unary(self, method: str, behaviour: Any) -> Callable[[Any, Any], Awaitable[Any]]:  # noqa: ARG002 - the port's form
        return behaviour  # type: ignore[no-any-return]  # grpcio's handlers are untyped here

    def streaming(self, method: str, behaviour: Any) -> Callable[[Any, Any], AsyncIterator[Any]]:
        protocol = _PROTOCOLS.get(method)
        if protocol is None:
            return behaviour  # type: ignore[no-any-return]  # as above
        is_xds = protocol.startswith("sds")

        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            stream = _MeteredStream()
            self._open.labels(protocol).inc()
            try:
                async for message in behaviour(self._heard(request, stream) if is_xds else request, context):
                    self._pushes.labels(protocol).inc()
                    if is_xds:
                        stream.nonce, stream.sent_at = message.nonce, self._clock.monotonic()
                    yield message
            finally:
                self._open.labels(protocol).dec()
                self._refusing.dec(stream.refuses)

        return call

    async def _heard(self, requests: AsyncIterator[Any], stream: _MeteredStream) -> AsyncIterator[Any]:
        async for request in requests:
            if stream.nonce and request.response_nonce == stream.nonce:
                self._take_answer(stream, refused=request.HasField("error_detail"))
            yield request

    def _take_answer(self, stream: _MeteredStream, *, refused: bool) -> None:
        stream.nonce = ""  # a response is answered once; later requests with its nonce change names
        self._refusing.inc(int(refused) - stream.refuses)
        stream.refuses = int(refused)
        if refused:
            self._refusals.inc()
        else:
            self._lag.observe(self._clock.monotonic() - stream.sent_at)


class _MeteredStream:
    """What is kept of one open stream."""

    __slots__ = ("nonce", "refuses", "sent_at")

    def __init__(self) -> None:
        self.nonce = ""
        self.sent_at = 0.0
        self.refuses = 0
