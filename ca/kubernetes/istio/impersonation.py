"""ztunnel: one proxy on each node that asks for the identities of the pods there."""

from __future__ import annotations

from collections.abc import Collection

from ca.kubernetes.accounts import ProvenAccount
from ca.kubernetes.istio.presence import Presence
from citadel.errors import CitadelError, Reason, Unauthenticated, Unavailable
from citadel.kubernetes.settings import NamespaceSettings
from citadel.spiffe import SpiffeId, TrustDomain


class Impersonation:
    """Decides who may ask for whom, in one cluster."""

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        trusted: Collection[str],
        namespaces: NamespaceSettings,
        presence: Presence,
    ) -> None:
        """`trusted` are the service accounts, as namespace/name, that may ask for others."""
        self._trust_domain = trust_domain
        self._trusted = frozenset(trusted)
        self._namespaces = namespaces
        self._presence = presence

    async def authorized(self, caller: ProvenAccount, wanted: str) -> tuple[SpiffeId, str]:
        """The identity that `caller` asks for, and the node that both are on.

        Raises `Unauthenticated` (`k8s_impersonation_refused`), as Istio does, and `Unavailable`
        where it is not known, and cannot be asked, which pods there are.
        """
        who = caller.key
        if who not in self._trusted:
            raise _refused(who, wanted, "it is not one of trusted_node_accounts")
        identity, namespace, account = self._parsed(who, wanted)
        if not self._namespaces.admits(namespace):
            raise _refused(who, wanted, f"proxies of the namespace {namespace} get no certificates here")
        node = await self._node(caller, who, wanted)
        if await self._presence.on_node(node, namespace=namespace, account=account) is None:
            self._check_known()
            raise _refused(who, wanted, f"no pod on its node {node} has this service account")
        return identity, node

    def _parsed(self, who: str, wanted: str) -> tuple[SpiffeId, str, str]:
        try:
            identity = SpiffeId.parse(wanted)
        except CitadelError as error:
            raise _refused(who, wanted, error.message) from error
        match identity.path.split("/")[1:]:
            case ["ns", namespace, "sa", account] if identity.is_member_of(self._trust_domain):
                return identity, namespace, account
            case _:
                form = f"spiffe://{self._trust_domain.name}/ns/NAMESPACE/sa/ACCOUNT"
                raise _refused(who, wanted, f"it is not of the form {form}")

    async def _node(self, caller: ProvenAccount, who: str, wanted: str) -> str:
        """Where the caller is, by its own pod: a token without one could be used from anywhere."""
        if caller.pod is None:
            raise _refused(who, wanted, "its token is not bound to a pod")
        pod = await self._presence.bound_pod(caller.namespace, caller.pod)
        if pod is None:
            self._check_known()
            raise _refused(who, wanted, "its own pod is not there any more")
        if (pod.namespace, pod.service_account) != (caller.namespace, caller.name) or not pod.node:
            raise _refused(who, wanted, f"its pod {pod.key} is not on a node, or has another service account")
        if caller.node is not None and caller.node.name != pod.node:
            raise _refused(who, wanted, f"its pod {pod.key} is on {pod.node}, and its token on {caller.node.name}")
        return pod.node

    def _check_known(self) -> None:
        if not self._presence.is_known:
            raise Unavailable(
                Reason.KUBERNETES_UNAVAILABLE, "it is not known yet which pods are on which node", fix="ask again"
            )


def _refused(who: str, wanted: str, why: str) -> CitadelError:
    return Unauthenticated(Reason.K8S_IMPERSONATION_REFUSED, f"{who} asks for {wanted[:300]!r}: {why}")
