"""Agents whose nodes have left the cluster are evicted; nobody is for what an API server does not say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from ca.kubernetes.departures import Departures
from ca.kubernetes.nodes import Places
from ca.store.database import Database
from citadel.errors import PermissionDenied, Reason
from citadel.kubernetes.ports import ApiUnavailable
from citadel.reserved import k8s_agent_id
from tests.clock import FakeClock
from tests.unit.ca.joiner import pem
from tests.unit.ca.kubernetes.test_joining import AGENT, World, X, evictions
from tests.unit.ca.values import A_TEST, ADMINISTRATOR

OTHER = k8s_agent_id(A_TEST, "c1", "n2")
LONG = 15 * 60


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> AsyncIterator[World]:
    """Agents on the nodes n1 and n2, with the pods followed."""
    world = World(database, clock)
    world.cluster.node("n2", uid="node-2")
    world.cluster.pod("agent-w", uid="pod-9", node="n2")
    places = Places(world.api, world.pods)
    departures = Departures(cluster="c1", roster=world.server.roster, places=places, clock=clock)
    work = [asyncio.create_task(each.run()) for each in (world.pods, departures)]
    await world.pods.until_synced()
    await world.join(pod_name="agent-w", pod_uid="pod-9", node_name="n2", node_uid="node-2")
    yield world
    for each in work:
        each.cancel()


def leave(world: World, *, node: bool = True, pod: bool = True) -> None:
    if pod:
        world.cluster.drop("agent-x")
    if node:
        world.api.drop("/api/v1/nodes/n1")


async def pass_time(world: World, seconds: float = LONG) -> None:
    """The store writes in threads, which a clock that stands still does not wait for."""
    await world.clock.advance(seconds)
    await asyncio.sleep(0.05)
    await world.clock.advance(0)


async def only_the_other_is_left(world: World) -> None:
    """Once the store has written it."""
    async with asyncio.timeout(10):
        while {*world.server.roster.all()} != {OTHER}:
            await pass_time(world, 0)


@pytest.mark.parametrize("back", [False, True])
async def test_an_agent_whose_node_and_pod_are_gone_is_evicted(world: World, back: bool) -> None:
    svid = await world.join(**X)
    leave(world)
    if back:  # as another machine
        world.cluster.node("n1", uid="node-7")
    await pass_time(world, 9 * 60)
    assert AGENT in world.server.roster.all()
    await pass_time(world)
    await only_the_other_is_left(world)
    with pytest.raises(PermissionDenied) as refused:
        await world.server.roster.authenticate(pem(svid))
    assert refused.value.reason is Reason.AGENT_UNKNOWN
    assert await evictions(world) == ["node n1 and the agent's pod have left the cluster"]


@pytest.mark.parametrize("left", ["pod", "node"])
async def test_who_has_left_by_half_stays(world: World, left: str) -> None:
    await world.join(**X)
    leave(world, node=left == "node", pod=left == "pod")
    await pass_time(world)
    assert AGENT in world.server.roster.all()


async def test_nobody_is_evicted_for_the_silence_of_an_api_server(world: World) -> None:
    await world.join(**X)
    leave(world)
    await pass_time(world, 9 * 60)
    world.api.fails = ApiUnavailable("away")
    world.api.break_watches()
    await pass_time(world, 60 * 60)
    assert {*world.server.roster.all()} == {AGENT, OTHER}
    world.api.fails = None
    await pass_time(world, 9 * 60)  # what was missing before the outage does not count
    assert AGENT in world.server.roster.all()
    await pass_time(world)
    await only_the_other_is_left(world)


async def test_nobody_is_evicted_where_the_node_cannot_be_asked_for(world: World) -> None:
    async def away() -> None:
        raise ApiUnavailable("away")

    await world.join(**X)
    leave(world)
    world.api.meanwhile["/api/v1/nodes/n1"] = away
    await pass_time(world, 60 * 60)
    assert {*world.server.roster.all()} == {AGENT, OTHER}


def roll(world: World) -> None:
    """Other pods, whose agents go on with what is on the disk of their nodes, and do not join."""
    for name, node in (("agent-x", "n1"), ("agent-w", "n2")):
        world.cluster.drop(name)
        world.cluster.pod(f"{name}-new", uid=f"{name}-new", node=node)


async def test_after_a_rollout_nobody_is_evicted_but_who_leaves(world: World) -> None:
    await world.join(**X)
    roll(world)
    await pass_time(world, 60 * 60)
    assert {*world.server.roster.all()} == {AGENT, OTHER}
    world.cluster.drop("agent-x-new")
    world.api.drop("/api/v1/nodes/n1")
    await pass_time(world)
    await only_the_other_is_left(world)


async def test_a_cluster_with_nodes_of_the_same_names_is_not_believed(world: World) -> None:
    await world.join(**X)
    roll(world)
    for name in ("n1", "n2"):
        world.cluster.node(name, uid=f"another-{name}")
    await pass_time(world, 60 * 60)
    assert {*world.server.roster.all()} == {AGENT, OTHER}


async def test_a_cluster_that_knows_no_agent_at_all_is_not_believed(world: World) -> None:
    await world.join(**X)
    leave(world)
    world.cluster.drop("agent-w")
    world.api.drop("/api/v1/nodes/n2")
    await pass_time(world, 60 * 60)
    assert {*world.server.roster.all()} == {AGENT, OTHER}


async def test_a_ban_outlives_the_node(world: World) -> None:
    await world.join(**X)
    await world.server.administration.ban(str(AGENT), why="stolen", by=ADMINISTRATOR)
    leave(world)
    await pass_time(world, 60 * 60)
    assert world.server.roster.is_banned(AGENT)
