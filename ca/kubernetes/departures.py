"""Agents whose nodes have left the cluster: they are evicted, and what was stolen from their disks renews no more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

import structlog

from ca.agents.model import Agent, JoinedBy, evicted
from ca.agents.roster import AgentRoster
from ca.kubernetes.accounts import Named
from ca.kubernetes.nodes import Places, fact
from citadel.clock import Clock
from citadel.errors import CitadelError
from citadel.spiffe import SpiffeId
from citadel.tasks import to_its_end

_LOOK_EVERY: Final = 60.0  # seconds
_GONE_FOR: Final = timedelta(minutes=10)
_MOST_ASKED: Final = 10  # nodes, to see that a cluster is still the one that agents joined from

_log = structlog.get_logger(__name__)


class Departures:
    """Evicts the agents of one cluster that are gone from it.

    A wrong eviction is an outage of a node, so all of this is asked: their pods were missing for ten minutes in which
    pods could be followed without trouble, and then the API server itself says that neither the pod nor the node is
    there any more, by UID. A cluster that knows neither the pod nor the node of any of its agents is not believed: it
    may be another one, or set up anew. Pods alone do not say so: those of a DaemonSet that was rolled out are all other
    ones. Who is banned stays so, since that is a person's word.
    """

    def __init__(self, *, cluster: str, roster: AgentRoster, places: Places, clock: Clock) -> None:
        self._cluster = cluster
        self._roster = roster
        self._places = places
        self._clock = clock
        self._missing: dict[SpiffeId, tuple[str, datetime]] = {}

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self._clock.sleep(_LOOK_EVERY)
            try:
                await self._look()
            except CitadelError as error:  # the API server, or the store
                self._missing.clear()
                _log.info("agents that are gone wait", cluster=self._cluster, reason=error.reason, error=str(error))

    async def _look(self) -> None:
        pods, now = self._places.pods, self._clock.now()
        agents = [*self._agents()]
        missing = [each for each in agents if pods.with_uid(fact(each.selectors, "k8s-pod-uid")) is None]
        is_followed = pods.has_synced and pods.trouble is None
        if not is_followed or (len(missing) == len(agents) and not await self._is_theirs(agents)):
            self._missing.clear()
            return
        before, self._missing = self._missing, {}
        for agent in missing:
            uid, since = before.get(agent.spiffe_id, ("", now))
            if uid != fact(agent.selectors, "k8s-pod-uid"):
                since = now
            self._missing[agent.spiffe_id] = fact(agent.selectors, "k8s-pod-uid"), since
        for agent in missing:
            if now - self._missing[agent.spiffe_id][1] >= _GONE_FOR:
                del self._missing[agent.spiffe_id]
                if await self._has_left(agent):
                    await to_its_end(self._evict(agent))

    def _agents(self) -> Iterator[Agent]:
        for agent in self._roster.all().values():
            is_theirs = fact(agent.selectors, "k8s-cluster") == self._cluster
            if agent.joined_by is JoinedBy.K8S_PSAT and is_theirs and not agent.banned:
                yield agent

    async def _is_theirs(self, agents: Sequence[Agent]) -> bool:
        """Whether the node of one of them is there, which is the same machine if it has the same UID."""
        nodes = ((fact(each.selectors, "k8s-node-name"), fact(each.selectors, "k8s-node-uid")) for each in agents)
        likely = (each for each in nodes if self._places.pods.on_node(each[0]))
        for name, uid in islice(likely, _MOST_ASKED):
            node = await self._places.node(name)
            if node is not None and node.uid == uid:
                return True
        return False

    async def _has_left(self, agent: Agent) -> bool:
        told = {name: fact(agent.selectors, f"k8s-{name}") for name in ("ns", "pod-name", "pod-uid")}
        if await self._places.pod(told["ns"], Named(told["pod-name"], told["pod-uid"])) is not None:
            return False
        node = await self._places.node(fact(agent.selectors, "k8s-node-name"))
        return node is None or node.uid != fact(agent.selectors, "k8s-node-uid")

    async def _evict(self, agent: Agent) -> None:
        async with self._roster.one_change_at_a_time:
            now = self._roster.all().get(agent.spiffe_id)
            if now is None or now.banned or now.selectors != agent.selectors:
                return  # it joined anew meanwhile, or a person was faster
            why = f"node {fact(agent.selectors, 'k8s-node-name')} and the agent's pod have left the cluster"
            await self._roster.remove(agent.spiffe_id, evicted(agent, why=why))
        _log.warning("agent evicted", agent=str(agent.spiffe_id), why=why)
