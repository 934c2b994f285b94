"""What `citadel-cli k8s check` asks: API servers, this node, and the server's own admin socket where it answers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from ca.kubernetes.check.access import agent_access_findings
from ca.kubernetes.check.facts import ClusterFacts, ServerFacts
from ca.kubernetes.check.gather import gather, gather_for_agent
from ca.kubernetes.check.rules import findings, twins
from ca.kubernetes.settings import ClusterSettings
from citadel.clock import Clock
from citadel.errors import CitadelError
from citadel.finding import Finding
from citadel.kubernetes.opening import open_client
from sds import node_check
from sds.settings import AgentSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Looking:
    """What is known before anything is asked: `account` is whose permissions to ask for, None for the caller's own."""

    clock: Clock
    account: str | None
    server: ServerFacts | CitadelError | None


async def look_at_clusters(clusters: Sequence[ClusterSettings], looking: Looking) -> Mapping[str, Sequence[Finding]]:
    """Everything that was found, by cluster. Raises `InvalidArgument` (`config_invalid`)."""
    facts: dict[str, ClusterFacts] = {}
    async with AsyncExitStack() as stack:
        for each in clusters:
            client = await open_client(each.api, f"cluster {each.name}")
            stack.push_async_callback(client.close)
            facts[each.name] = await gather(each, client, clock=looking.clock, account=looking.account)
    same = twins(facts)
    return {
        each.name: [
            *findings(facts[each.name], each, account=looking.account, server=looking.server),
            *([same[each.name]] if each.name in same else []),
        ]
        for each in clusters
    }


async def look_at_node(settings: AgentSettings, clock: Clock, *, audience: str | None) -> Sequence[Finding]:
    """Everything about this node, for an agent with these settings. Raises as above."""
    found: list[Finding] = []
    if settings.kubernetes is not None:
        client = await open_client(settings.kubernetes.api, "the agent")
        try:
            found += agent_access_findings(await gather_for_agent(client, clock=clock))
        finally:
            await client.close()
    facts = await node_check.look(settings, environ=os.environ)
    return [*found, *node_check.findings(facts, settings, audience=audience, now=clock.now())]
