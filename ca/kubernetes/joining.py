"""Joining by Kubernetes (k8s_psat): the projected token of an agent's pod, which the cluster vouches for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from ca.agents.model import Agent, JoinedBy, evicted, joined
from ca.agents.roster import AgentRoster
from ca.audit.model import Act
from ca.issuance.csr import public_key_of
from ca.issuance.issuer import Issuer, key_digest
from ca.issuance.press import IssuedSvid
from ca.kubernetes.accounts import Named
from ca.kubernetes.nodes import AgentPlace, Places, fact
from ca.kubernetes.pods import Pod
from ca.kubernetes.room import Room
from ca.kubernetes.tokens import TokenReviewer
from citadel.clock import Clock
from citadel.errors import FailedPrecondition, PermissionDenied, Reason
from citadel.reserved import k8s_agent_id
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.tasks import to_its_end

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class JoiningCluster:
    """Who may join from one cluster, and who says so. `reviewer` keeps nothing: every join is judged anew."""

    accounts: frozenset[str]
    reviewer: TokenReviewer
    places: Places


class KubernetesJoining:
    """Lets in who shows the token of an agent's pod. A node has one agent, and that of the newest pod is it.

    `is_here` says whether an agent is connected, or was a moment ago.
    """

    def __init__(
        self,
        clusters: Mapping[str, JoiningCluster],
        *,
        trust_domain: TrustDomain,
        roster: AgentRoster,
        issuer: Issuer,
        is_here: Callable[[SpiffeId], bool],
        room: Room,
        clock: Clock,
    ) -> None:
        self._clusters = clusters
        self._trust_domain = trust_domain
        self._roster = roster
        self._issuer = issuer
        self._is_here = is_here
        self._room = room
        self._clock = clock

    async def join(self, cluster: str, token: str, csr: bytes, *, origin: str = "") -> IssuedSvid:
        """An SVID for the agent of the token's pod; `origin` is the address that it comes from.

        Raises `FailedPrecondition` (`k8s_cluster_unknown`), `Unauthenticated` (`k8s_token_…`, `k8s_pod_unknown`),
        `PermissionDenied` (`k8s_account_not_allowed`, `k8s_node_taken`, `agent_banned`), `InvalidArgument` for the
        request, `Unavailable` where the API server cannot be asked now, and `ResourceExhausted` where it is too much.
        """
        theirs = self._clusters.get(cluster)
        if theirs is None:
            raise FailedPrecondition(
                Reason.K8S_CLUSTER_UNKNOWN,
                f"no agent of a cluster {cluster[:100]!r} may join here",
                fix="compare join.k8s_psat.cluster with kubernetes.clusters in the server's settings",
            )
        key = key_digest(public_key_of(csr))
        with self._room.one(cluster):
            account = await theirs.reviewer.account(token)
            if account.key not in theirs.accounts:
                raise PermissionDenied(
                    Reason.K8S_ACCOUNT_NOT_ALLOWED,
                    f"agents of cluster {cluster} may not join as service account {account.key}",
                    fix="add it to joining.service_accounts in the server's settings",
                )
            place = await theirs.places.of(account)
            agent = Agent(
                spiffe_id=k8s_agent_id(self._trust_domain, cluster, place.node.name),
                key=key,
                next_key=None,
                selectors=place.selectors,
                banned=False,
                joined_at=self._clock.now(),
                joined_by=JoinedBy.K8S_PSAT,
            )
            await self._enter(agent, place, theirs.places, origin)
        _log.info("agent joined", agent=str(agent.spiffe_id), by=agent.joined_by.value, pod=place.pod.key)
        return await self._roster.issue_own(agent.spiffe_id, csr, issuer=self._issuer)

    async def _enter(self, agent: Agent, place: AgentPlace, places: Places, origin: str) -> None:
        """Take the place of who has it. The API server is asked without the lock, which it could hold up for all."""
        while True:
            before = self._roster.all().get(agent.spiffe_id)
            other = await self._other_pod(before, place, places) if before is not None else None
            if await to_its_end(self._record(agent, place, places, origin, judged=(before, other))):
                return

    async def _record(
        self, agent: Agent, place: AgentPlace, places: Places, origin: str, *, judged: tuple[Agent | None, Pod | None]
    ) -> bool:
        """Whether it is done: not where another one than `judged` has the place meanwhile."""
        async with self._roster.one_change_at_a_time:
            before = self._roster.all().get(agent.spiffe_id)
            if _pod_uid(before) != _pod_uid(judged[0]):
                return False
            places.refuse_gone(place)
            acts: list[Act] = []
            if before is not None and before.banned:
                raise PermissionDenied(Reason.AGENT_BANNED, f"{agent.spiffe_id} is banned")
            if before is not None and agent.key not in (before.key, before.next_key):
                self._refuse_older(before, judged[1], place)
                acts.append(evicted(before, why=_why(before, place)))
                _log.warning("agent evicted", agent=str(agent.spiffe_id), why=acts[0].why)
            await self._roster.record(agent, *acts, joined(agent, origin=origin))
            return True

    async def _other_pod(self, before: Agent, place: AgentPlace, places: Places) -> Pod | None:
        """The pod that has the node, where it is another one and may keep it.

        While pods are not listed, one that is not known may be there nevertheless: then the API server is asked for it,
        and nobody takes its node while that cannot be.
        """
        uid = _pod_uid(before)
        if before.banned or uid in ("", place.pod.uid) or not self._is_here(before.spiffe_id):
            return None
        names = fact(before.selectors, "k8s-ns"), fact(before.selectors, "k8s-pod-name")
        return await places.pod(names[0], Named(names[1], uid))

    @staticmethod
    def _refuse_older(before: Agent, other: Pod | None, place: AgentPlace) -> None:
        """Of two pods with an agent on one node, as while a DaemonSet rolls, the newer has it: they take no turns.

        One that has gone, or is not heard of, keeps nobody out: otherwise the node could be left without an agent.
        """
        if other is None or other.has_ended or other.node != place.node.name:
            return
        if (other.created, other.uid) > (place.pod.created, place.pod.uid):
            raise PermissionDenied(
                Reason.K8S_NODE_TAKEN,
                f"{before.spiffe_id} is the agent in pod {other.key}, which is newer than pod {place.pod.key}",
                fix="nothing while a DaemonSet rolls; otherwise keep a second agent off the node",
            )


def _pod_uid(agent: Agent | None) -> str:
    return fact(agent.selectors, "k8s-pod-uid") if agent is not None else ""


def _why(before: Agent, place: AgentPlace) -> str:
    if fact(before.selectors, "k8s-node-uid") != place.node.uid:
        return f"node {place.node.name} came back with another UID, {place.node.uid}"
    if fact(before.selectors, "k8s-pod-uid") != place.pod.uid:
        return f"another agent is on node {place.node.name}, in pod {place.pod.key}"
    return f"the agent in pod {place.pod.key} joined anew with another key"
