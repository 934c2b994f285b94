"""Joining by Kubernetes: who becomes which agent, who is refused for what, and who of two has a node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ca.agents.model import JoinedBy
from ca.issuance.issuer import key_digest
from ca.issuance.press import IssuedSvid
from ca.kubernetes.joining import JoiningCluster, KubernetesJoining
from ca.kubernetes.nodes import Places, fact
from ca.kubernetes.room import Room
from ca.kubernetes.tokens import REVIEWS, TokenReviewer
from ca.store.database import Database
from citadel.errors import (
    CitadelError,
    FailedPrecondition,
    InvalidArgument,
    PermissionDenied,
    Reason,
    ResourceExhausted,
)
from citadel.kubernetes.ports import ApiUnavailable
from citadel.reserved import k8s_agent_id
from citadel.spiffe import SpiffeId
from tests.clock import FakeClock
from tests.csrs import csr, new_key
from tests.unit.ca.joiner import Joiner, pem
from tests.unit.ca.kubernetes.fake_cluster import EXTRA, HOUR, FakeCluster, Reviews, good, refusing, token
from tests.unit.ca.values import A_TEST, ADMINISTRATOR

AGENT = k8s_agent_id(A_TEST, "c1", "n1")


class World:
    """A server, and a cluster with an agent's pod `agent-x` on node `n1`."""

    def __init__(self, database: Database, clock: FakeClock, *, name: str = "c1") -> None:
        self.clock = clock
        self.server = Joiner(database, clock)
        self.reviews = Reviews()
        self.cluster = FakeCluster(self.reviews, clock)
        self.api, self.pods = self.cluster.api, self.cluster.pods
        self.here: set[SpiffeId] = set()
        self.joining_cluster = JoiningCluster(
            accounts=frozenset({"mesh/agent"}),
            reviewer=TokenReviewer(self.api, cluster=name, audience="citadel", clock=clock),
            places=Places(self.api, self.pods),
        )
        self.joining = KubernetesJoining(
            {name: self.joining_cluster},
            trust_domain=A_TEST,
            roster=self.server.roster,
            issuer=self.server.issuer,
            is_here=self.here.__contains__,
            room=Room(4, clusters=1),
            clock=clock,
        )

    async def join(
        self, *, key: ec.EllipticCurvePrivateKey | None = None, cluster: str = "c1", **bound: str
    ) -> IssuedSvid:
        """As an agent does whose token is bound to this pod and node (names and UIDs); that of agent-x by default."""
        if bound:
            extra = {f"{EXTRA}{name.replace('_', '-')}": [value] for name, value in bound.items()}
            self.reviews.status = good(user={"extra": extra})
        return await self.joining.join(cluster, token(self.clock.now() + HOUR), csr(key), origin="ipv4:10.0.0.7")

    async def refusal(self, **how: Any) -> CitadelError:
        with pytest.raises(CitadelError) as refused:
            await self.join(**how)
        return refused.value


@pytest.fixture
def world(database: Database, clock: FakeClock) -> World:
    return World(database, clock)


@pytest.fixture
async def followed(world: World) -> AsyncIterator[World]:
    """The same, with the pods followed."""
    running = asyncio.create_task(world.pods.run())
    await world.pods.until_synced()
    await world.cluster.follow()
    yield world
    running.cancel()


X = {"pod_name": "agent-x", "pod_uid": "pod-1", "node_name": "n1", "node_uid": "node-1"}
Y = {"pod_name": "agent-y", "pod_uid": "pod-2", "node_name": "n1", "node_uid": "node-1"}
LATER = "2026-01-01T01:00:00Z"


async def test_an_agent_is_named_after_its_cluster_and_node(world: World) -> None:
    key = new_key()
    svid = await world.join(key=key)
    assert svid.spiffe_id == AGENT
    recorded = (await world.server.recorded())[AGENT]
    assert (recorded.key, recorded.joined_by) == (key_digest(key.public_key()), JoinedBy.K8S_PSAT)
    assert {str(each) for each in recorded.selectors} == {
        "node:k8s-cluster:c1",
        "node:k8s-node-name:n1",
        "node:k8s-node-uid:node-1",
        "node:k8s-ns:mesh",
        "node:k8s-sa:agent",
        "node:k8s-pod-name:agent-x",
        "node:k8s-pod-uid:pod-1",
    }
    who, _ = await world.server.roster.authenticate(pem(svid))
    assert who == recorded
    assert await world.server.acts() == [(str(AGENT), "agent.join", str(AGENT), "")]


async def test_every_join_is_judged_anew(world: World) -> None:
    await world.join()
    world.reviews.status = refusing("[invalid bearer token]")
    assert (await world.refusal()).reason is Reason.K8S_TOKEN_REFUSED


async def test_refusals_that_come_before_any_pod(world: World) -> None:
    assert isinstance(await world.refusal(cluster="c2"), FailedPrecondition)
    with pytest.raises(InvalidArgument):
        await world.joining.join("c1", token(world.clock.now() + HOUR), b"no csr")
    assert world.api.calls == []
    user = {"username": "system:serviceaccount:mesh:web", "groups": good()["user"]["groups"]}
    world.reviews.status = good(user=user)
    refused = await world.refusal()
    assert (type(refused), refused.reason) == (PermissionDenied, Reason.K8S_ACCOUNT_NOT_ALLOWED)
    assert world.api.calls == [("create", REVIEWS)]


async def test_an_api_server_that_is_away_refuses_nobody(world: World) -> None:
    world.api.fails = ApiUnavailable("away")
    assert isinstance(await world.refusal(), ApiUnavailable)
    world.api.fails = None
    assert (await world.join()).spiffe_id == AGENT


async def test_a_lost_answer_is_asked_for_again_and_evicts_nobody(world: World) -> None:
    key = new_key()
    await world.join(key=key)
    again = await world.join(key=key)
    await world.server.roster.authenticate(pem(again))
    assert [what for _, what, _, _ in await world.server.acts()] == ["agent.join", "agent.join"]


async def test_an_agent_of_another_pod_that_has_the_key_of_the_one_before_evicts_nobody(followed: World) -> None:
    """As after a rollout of its DaemonSet: the key is on the disk of the node."""
    key = new_key()
    first = await followed.join(key=key, **X)
    followed.here.add(AGENT)
    followed.cluster.pod("agent-y", uid="pod-2", created=LATER)
    followed.cluster.drop("agent-x")
    await followed.cluster.follow()
    await followed.join(key=key, **Y)
    recorded, _ = await followed.server.roster.authenticate(pem(first))
    assert fact(recorded.selectors, "k8s-pod-name") == "agent-y"
    assert [what for _, what, _, _ in await followed.server.acts()] == ["agent.join", "agent.join"]


async def test_an_agent_that_has_renewed_its_key_but_not_used_it_yet_evicts_nobody(followed: World) -> None:
    key, renewed = new_key(), new_key()
    await followed.join(key=key, **X)
    roster = followed.server.roster
    await roster.record(replace(roster.all()[AGENT], next_key=key_digest(renewed.public_key())))
    followed.cluster.pod("agent-y", uid="pod-2", created=LATER)
    followed.cluster.drop("agent-x")
    await followed.cluster.follow()
    again = await followed.join(key=renewed, **Y)
    await roster.authenticate(pem(again))
    assert await evictions(followed) == []


async def evictions(world: World) -> list[str]:
    acts = await world.server.acts()  # by the server itself, which has no name
    assert not any(actor for actor, what, _, _ in acts if what == "agent.evict")
    return [why for _, what, _, why in acts if what == "agent.evict"]


async def test_the_newest_pod_on_a_node_has_it_and_the_older_one_is_evicted(followed: World) -> None:
    first = await followed.join(**X)
    open_stream = asyncio.Event()
    followed.server.roster.watch(open_stream, AGENT)
    followed.cluster.pod("agent-y", uid="pod-2", created=LATER)
    await followed.cluster.follow()
    second = await followed.join(**Y)
    followed.here.add(AGENT)
    assert open_stream.is_set()
    await followed.server.roster.authenticate(pem(second))
    with pytest.raises(PermissionDenied) as refused:
        await followed.server.roster.authenticate(pem(first))
    assert refused.value.reason is Reason.AGENT_KEY_MISMATCH
    assert await evictions(followed) == ["another agent is on node n1, in pod mesh/agent-y"]
    # The older one asks to be let in again, as often as it likes.
    for _ in range(3):
        assert (await followed.refusal(**X)).reason is Reason.K8S_NODE_TAKEN
    await followed.server.roster.authenticate(pem(second))
    assert len(await evictions(followed)) == 1


@pytest.mark.parametrize("gone", ["deleted", "ended", "moved", "never heard of"])
async def test_a_newer_pod_that_does_not_serve_keeps_nobody_out(followed: World, gone: str) -> None:
    followed.cluster.pod("agent-y", uid="pod-2", created=LATER)
    await followed.cluster.follow()
    await followed.join(**Y)
    if gone != "never heard of":
        followed.here.add(AGENT)
    match gone:
        case "deleted":
            followed.cluster.drop("agent-y")
        case "ended":
            followed.cluster.pod("agent-y", uid="pod-2", created=LATER, phase="Failed")
        case "moved":
            followed.cluster.pod("agent-y", uid="pod-2", created=LATER, node="n2")
    await followed.cluster.follow()
    await followed.server.roster.authenticate(pem(await followed.join(**X)))


async def newer_is_here(world: World) -> bytes:
    """The agent in the newer pod has the node, and nothing is listed: a server that has just started."""
    world.cluster.pod("agent-y", uid="pod-2", created=LATER)
    svid = await world.join(**Y)
    world.here.add(AGENT)
    return pem(svid)


async def test_before_pods_are_listed_an_older_one_takes_no_turns_with_the_newer(world: World) -> None:
    leaf = await newer_is_here(world)
    for _ in range(3):
        assert (await world.refusal(**X)).reason is Reason.K8S_NODE_TAKEN
        await world.server.roster.authenticate(leaf)
    assert await evictions(world) == []


async def test_nobody_takes_a_node_while_it_cannot_be_asked_whether_the_newer_pod_is_there(world: World) -> None:
    leaf = await newer_is_here(world)

    async def away() -> None:
        raise ApiUnavailable("away")

    world.api.meanwhile["/api/v1/namespaces/mesh/pods/agent-y"] = away
    assert isinstance(await world.refusal(**X), ApiUnavailable)
    await world.server.roster.authenticate(leaf)


async def test_before_pods_are_listed_a_newer_one_that_is_gone_keeps_nobody_out(world: World) -> None:
    await newer_is_here(world)
    world.cluster.drop("agent-y")
    await world.server.roster.authenticate(pem(await world.join(**X)))


async def test_who_takes_the_node_while_the_holders_pod_is_asked_for_is_judged_too(world: World) -> None:
    await newer_is_here(world)
    world.cluster.drop("agent-y")
    world.cluster.pod("agent-z", uid="pod-3", created=LATER)
    joined: list[IssuedSvid] = []

    async def another_joins() -> None:
        del world.api.meanwhile["/api/v1/namespaces/mesh/pods/agent-y"]
        joined.append(await world.join(**{**Y, "pod_name": "agent-z", "pod_uid": "pod-3"}))

    world.api.meanwhile["/api/v1/namespaces/mesh/pods/agent-y"] = another_joins
    assert (await world.refusal(**X)).reason is Reason.K8S_NODE_TAKEN
    await world.server.roster.authenticate(pem(joined[0]))


@pytest.mark.parametrize("gone", ["deleted", "ended", "moved"])
async def test_a_pod_that_goes_while_its_node_is_asked_for_does_not_join(followed: World, gone: str) -> None:
    async def goes() -> None:
        match gone:
            case "deleted":
                followed.cluster.drop("agent-x")
            case "ended":
                followed.cluster.pod("agent-x", uid="pod-1", phase="Failed")
            case "moved":
                followed.cluster.pod("agent-x", uid="pod-1", node="n2")
        await followed.cluster.follow()

    followed.api.meanwhile["/api/v1/nodes/n1"] = goes
    assert (await followed.refusal(**X)).reason is Reason.K8S_POD_UNKNOWN
    assert await followed.server.recorded() == {}


async def test_of_two_pods_of_one_second_always_the_same_has_the_node(followed: World) -> None:
    followed.cluster.pod("agent-y", uid="pod-2")
    await followed.cluster.follow()
    await followed.join(**X)
    followed.here.add(AGENT)
    await followed.join(**Y)
    assert (await followed.refusal(**X)).reason is Reason.K8S_NODE_TAKEN
    await followed.join(**Y)


async def test_a_node_that_comes_back_under_its_name_evicts_what_was_there(followed: World) -> None:
    first = await followed.join(**X)
    followed.here.add(AGENT)
    followed.cluster.drop("agent-x")
    followed.cluster.node("n1", uid="node-2")
    followed.cluster.pod("agent-z", uid="pod-3", created=LATER)
    await followed.cluster.follow()
    await followed.join(pod_name="agent-z", pod_uid="pod-3", node_name="n1", node_uid="node-2")
    with pytest.raises(PermissionDenied):
        await followed.server.roster.authenticate(pem(first))
    assert await evictions(followed) == ["node n1 came back with another UID, node-2"]


async def test_a_pod_that_lost_its_key_takes_its_own_place(world: World) -> None:
    await world.join()
    world.here.add(AGENT)
    await world.join()
    assert await evictions(world) == ["the agent in pod mesh/agent-x joined anew with another key"]


async def test_a_banned_agent_stays_banned_in_whatever_pod(world: World) -> None:
    await world.join()
    await world.server.administration.ban(str(AGENT), why="stolen", by=ADMINISTRATOR)
    before = await world.server.recorded()
    world.cluster.pod("agent-y", uid="pod-2", created=LATER)
    assert (await world.refusal(**Y)).reason is Reason.AGENT_BANNED
    assert await world.server.recorded() == before


def joining_from(first: World, second: World) -> KubernetesJoining:
    return KubernetesJoining(
        {"c1": first.joining_cluster, "c2": second.joining_cluster},
        trust_domain=A_TEST,
        roster=first.server.roster,
        issuer=first.server.issuer,
        is_here=first.here.__contains__,
        room=Room(4, clusters=2),
        clock=first.clock,
    )


async def test_two_clusters_have_their_nodes_and_tokens_for_themselves(database: Database, clock: FakeClock) -> None:
    first, second = World(database, clock), World(database, clock, name="c2")
    both = joining_from(first, second)
    shown = token(clock.now() + HOUR)
    second.reviews.status = refusing("[invalid bearer token]")
    assert (await both.join("c1", shown, csr())).spiffe_id == AGENT
    with pytest.raises(CitadelError) as refused:  # the same token, of pods and nodes with the same names
        await both.join("c2", shown, csr())
    assert refused.value.reason is Reason.K8S_TOKEN_REFUSED
    second.reviews.status = good()
    first.api.fails = ApiUnavailable("away")  # what the other cluster says is not asked for
    assert (await both.join("c2", shown, csr())).spiffe_id == k8s_agent_id(A_TEST, "c2", "n1")
    assert {fact(each.selectors, "k8s-cluster") for each in first.server.roster.all().values()} == {"c1", "c2"}
    assert await evictions(first) == []
    with pytest.raises(CitadelError) as unknown:
        await both.join("", shown, csr())
    assert unknown.value.reason is Reason.K8S_CLUSTER_UNKNOWN


async def test_a_cluster_whose_api_server_hangs_keeps_agents_of_no_other_out(
    database: Database, clock: FakeClock
) -> None:
    first, second = World(database, clock), World(database, clock, name="c2")
    both, shown = joining_from(first, second), token(clock.now() + HOUR)

    async def never() -> None:
        await asyncio.Event().wait()

    first.api.meanwhile["/api/v1/nodes/n1"] = never
    waiting = [asyncio.create_task(both.join("c1", shown, csr())) for _ in range(10)]
    await first.cluster.follow()
    assert [type(task.exception()) for task in waiting if task.done()] == [ResourceExhausted] * 7
    assert (await both.join("c2", shown, csr())).spiffe_id == k8s_agent_id(A_TEST, "c2", "n1")
    for task in waiting:
        task.cancel()
