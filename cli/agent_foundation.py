"""What the agent has before it has an identity, wired: holdings, policies, who calls, and how it is doing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random, SystemRandom

from citadel.clock import Clock, SystemClock
from citadel.jwt.key_ring import IssuerKeyRing
from citadel.jwt.opening import LateKeyFetcher
from citadel.probes import Probes
from cli.agent_insight import AgentInsight
from cli.agent_kubernetes import Attesting, attesting
from sds.agent import AgentCondition
from sds.authz.metrics import PolicyCollector
from sds.authz.policy_file import PolicyFile
from sds.holdings import HoldingsFeed
from sds.settings import AgentSettings


@dataclass(frozen=True, kw_only=True)
class AgentFoundation:
    """What everything else is made on."""

    settings: AgentSettings
    clock: Clock
    random: Random
    feed: HoldingsFeed
    condition: AgentCondition
    insight: AgentInsight
    policies: PolicyFile
    callers: Attesting


@asynccontextmanager
async def agent_foundation(settings: AgentSettings, proc: Path) -> AsyncIterator[AgentFoundation]:
    """The parts, within which the probes answer. Raises what is wrong with policies, or the section `kubernetes`."""
    clock, random, feed = SystemClock(), SystemRandom(), HoldingsFeed()
    condition = AgentCondition(feed=feed, clock=clock)
    insight = AgentInsight(condition=condition, feed=feed, clock=clock)
    probes = Probes(settings.probes, condition.readiness, metrics=insight.metrics, outside=settings.probes_outside)
    keys = IssuerKeyRing(fetch=LateKeyFetcher(), clock=clock, jitter=random.random)
    policies = PolicyFile(settings.authz.policy_file, keys=keys, clock=clock)
    insight.metrics.register(PolicyCollector(policies))
    try:
        await policies.load()
        condition.policies = policies
        async with attesting(settings.kubernetes, clock, metrics=insight.metrics, proc=proc) as callers:
            condition.kubernetes = callers.check
            await probes.start()
            yield AgentFoundation(
                settings=settings,
                clock=clock,
                random=random,
                feed=feed,
                condition=condition,
                insight=insight,
                policies=policies,
                callers=callers,
            )
    finally:
        await keys.close()
        await probes.close()
