"""Which identity a proxy of a cluster gets, and by which terms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Final

from ca.issuance.lifetime import LifetimePolicy
from ca.issuance.proven import ProvenRequest
from ca.kubernetes.accounts import Named, ProvenAccount
from ca.kubernetes.istio.asked import Asked
from ca.kubernetes.istio.callers import Tokens, identity_of
from ca.kubernetes.istio.impersonation import Impersonation
from ca.kubernetes.istio.presence import Presence
from ca.kubernetes.settings import IstioSettings
from citadel.errors import Reason, Unauthenticated
from citadel.printable import printable
from citadel.reserved import k8s_door_id
from citadel.spiffe import SpiffeId, TrustDomain

_BACKDATE: Final = timedelta(minutes=2)  # as Istio's own authority does
# As many as there may be in a cluster, and then some.
_NODES: Final = 10_000
_ACCOUNTS: Final = 10_000


class IstioCluster:
    """One cluster whose proxies get certificates."""

    def __init__(
        self,
        name: str,
        settings: IstioSettings,
        *,
        trust_domain: TrustDomain,
        tokens: Tokens,
        presence: Presence | None,
    ) -> None:
        """`presence` is None where its pods are not followed: then nobody is asked for by others."""
        self.names = frozenset({name, settings.cluster_id or name})
        self._settings = settings
        self._trust_domain = trust_domain
        self._tokens = tokens
        self._presence = presence
        self._impersonation = (
            Impersonation(
                trust_domain=trust_domain,
                trusted=settings.trusted_node_accounts,
                namespaces=settings.namespaces,
                presence=presence,
            )
            if presence is not None
            else None
        )
        self._policy = LifetimePolicy(
            default=settings.default_lifetime,
            own=settings.default_lifetime,
            cap=settings.max_lifetime,
            backdate=_BACKDATE,
        )
        self._door = k8s_door_id(trust_domain, name, "istio")
        self._identity = lru_cache(_ACCOUNTS)(identity_of)
        self._door_of = lru_cache(_NODES)(lambda node: k8s_door_id(trust_domain, name, "ztunnel", node))

    async def proven(self, token: str) -> ProvenAccount:
        """Whose token it is, whether or not it gets anything here. Raises as `Tokens.account`."""
        return await self._tokens.account(token)

    async def check(self, account: ProvenAccount) -> None:
        """That proxies of its namespace are served and its pod is there.

        Raises `Unauthenticated`: `k8s_account_not_allowed`, `k8s_pod_unknown`. The latter is only said of a pod that
        the API server was asked for; where it cannot say, that is `Unavailable`.
        """
        if not self._settings.namespaces.admits(account.namespace):
            raise Unauthenticated(
                Reason.K8S_ACCOUNT_NOT_ALLOWED,
                f"proxies of the namespace {account.namespace} get no certificates here",
                fix="admit it in istio.namespaces in the server's settings, if they should",
            )
        if account.pod is not None and await self._is_gone(account.namespace, account.pod):
            message = f"the pod {account.namespace}/{account.pod.name} is not there any more, or has ended"
            raise Unauthenticated(Reason.K8S_POD_UNKNOWN, message, fix="use the token of a running pod")

    def identity(self, account: ProvenAccount) -> SpiffeId:
        """Whose name the caller has. Raises as `identity_of`."""
        return self._identity(account.namespace, account.name, self._trust_domain)

    async def _is_gone(self, namespace: str, pod: Named) -> bool:
        """Whether the pod is known not to be there: what was said of a token can be some seconds old."""
        presence = self._presence
        if presence is None or presence.has(pod.uid):  # nearly all of them: no call waits for what is known
            return False
        return await presence.pod(namespace, pod) is None and presence.is_known

    async def request(self, account: ProvenAccount, asked: Asked) -> ProvenRequest:
        """What is signed for this caller: its own identity, or that of a pod on its node.

        Raises `InvalidArgument` (`lifetime_refused`), `Unauthenticated` and `Unavailable`.
        """
        lifetime = asked.lifetime(most=self._settings.max_lifetime)
        identity, door = self.identity(account), self._door
        if asked.impersonated is not None:
            if self._impersonation is None:
                raise Unauthenticated(
                    Reason.K8S_IMPERSONATION_REFUSED,
                    f"{account.key} asks for {asked.impersonated[:300]!r}: no account may ask for others here",
                    fix="name it in istio.trusted_node_accounts in the server's settings, if it is that of ztunnel",
                )
            identity, node = await self._impersonation.authorized(account, asked.impersonated)
            door = self._door_of(node)
        return ProvenRequest(
            spiffe_id=identity,
            key=asked.csr,
            policy=self._policy,
            requested_by=door,
            charged_to=account.pod.uid if account.pod is not None else identity,
            lifetime=lifetime,
        )


class IstioClusters:
    """All of them."""

    def __init__(self, clusters: Iterable[IstioCluster]) -> None:
        self._all: Sequence[IstioCluster] = tuple(clusters)
        self._by_name = {name: cluster for cluster in self._all for name in cluster.names}

    def of(self, name: str) -> IstioCluster:
        """The cluster that a caller names, or the only one. Raises `Unauthenticated` (`k8s_cluster_unknown`)."""
        if not name and len(self._all) == 1:
            return self._all[0]
        if (found := self._by_name.get(name)) is not None:
            return found
        what = f"no cluster {printable(name, 100)!r} is known here" if name else "the call names no cluster"
        raise Unauthenticated(
            Reason.K8S_CLUSTER_UNKNOWN,
            what,
            fix="set global.multiCluster.clusterName of Istio, or istio.cluster_id in the server's settings",
        )
