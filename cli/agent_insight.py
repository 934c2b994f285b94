"""What watches and explains the agent, wired onto its parts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import structlog

from citadel.clock import Clock
from citadel.errors import CitadelError
from citadel.health import HealthBoard
from citadel.interceptor import WrappingInterceptor
from citadel.metrics import CallMeter, RefusalCollector, new_registry
from citadel.selector import Selector
from citadel.tally import Tally
from sds.agent import AgentCondition
from sds.authz.counts import Decisions
from sds.holdings import HoldingsFeed
from sds.insight.gather import Keeping, ProcessGatherer
from sds.insight.local import SERVICE, AgentAdminListener, AgentLocalService
from sds.keep.signer import Signer
from sds.metrics import AgentCollector, MeteredSigner, StreamMeter
from sds.serve.callers import WorkloadAttestor
from sds.serve.registry import StreamRegistry
from sds.tokens.metrics import MeteredTokenSigner
from sds.tokens.signer import TokenSigner

_GRACE: Final = 1.0  # seconds for a call that is being answered

_log = structlog.get_logger(__name__)


class AgentInsight:
    """The agent's registry of metrics, and what fills it and explains from it."""

    def __init__(self, *, condition: AgentCondition, feed: HoldingsFeed, clock: Clock) -> None:
        self._condition = condition
        self._feed = feed
        self._clock = clock
        self.tally = Tally(clock=clock)
        self.decisions = Decisions(on_refusal=self.tally.count_refused)
        self.metrics = new_registry()
        self.metrics.register(AgentCollector(condition=condition, feed=feed, clock=clock))
        self.metrics.register(RefusalCollector(self.tally))
        self.metrics.register(self.decisions)
        self._calls = CallMeter(self.metrics, clock=clock)
        self._streams = StreamMeter(self.metrics, clock=clock)

    @property
    def interceptors(self) -> Sequence[WrappingInterceptor]:
        """What measures the calls on the workloads' socket; they stand before every other interceptor."""
        return (self._calls, self._streams)

    def metered(self, signer: Signer) -> Signer:
        """The same signer, measured. Call it once."""
        return MeteredSigner(signer, registry=self.metrics, clock=self._clock)

    def metered_tokens(self, signer: TokenSigner) -> TokenSigner:
        """The same signer of tokens, measured. Call it once."""
        return MeteredTokenSigner(signer, registry=self.metrics, clock=self._clock)

    @asynccontextmanager
    async def admin_socket(
        self,
        path: Path,
        *,
        relay_dir: Path,
        attestor: WorkloadAttestor,
        keeping: Keeping,
        streams: StreamRegistry,
        sds_names: Callable[[frozenset[Selector]], Sequence[str]],
    ) -> AsyncIterator[None]:
        """The agent's admin socket, open for the block.

        Where it cannot be opened the agent says so and serves: explaining must not keep a node from its certificates.
        """
        gatherer = ProcessGatherer(
            attestor=attestor,
            feed=self._feed,
            keeping=keeping,
            streams=streams.live,
            sds_names=sds_names,
            condition=self._condition,
            clock=self._clock,
        )
        health = HealthBoard(self._condition.readiness, services=(SERVICE,), clock=self._clock)
        listener = AgentAdminListener(
            path=path,
            relay_dir=relay_dir,
            service=AgentLocalService(gatherer=gatherer),
            health=health,
            interceptors=(self._calls,),
            on_refusal=self.tally.count_refused,
        )
        await health.start()
        try:
            await listener.start()
        except CitadelError as error:
            _log.error("the agent's admin socket is not open", reason=error.reason.value, error=str(error))
        try:
            yield
        finally:
            await health.drain()
            await listener.close(grace=_GRACE)
