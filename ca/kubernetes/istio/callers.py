"""Who asks, by a service account's token that was checked."""

from __future__ import annotations

from typing import Protocol

from ca.kubernetes.accounts import ProvenAccount
from citadel.errors import CitadelError, Reason, Unauthenticated
from citadel.spiffe import SpiffeId, TrustDomain


class Tokens(Protocol):
    """Checks service accounts' tokens of one cluster; `ca.kubernetes.tokens` and `ca.kubernetes.istio.oidc` do."""

    async def account(self, token: str) -> ProvenAccount:
        """Whose it is.

        Raises `Unauthenticated` (`k8s_token_refused`, `k8s_token_expired`, `k8s_token_audience`), and `Unavailable`
        where nobody could be asked, which says nothing about the token.
        """
        ...


def identity_of(namespace: str, name: str, trust_domain: TrustDomain) -> SpiffeId:
    """The name of all pods with the service account of this name, as Istio writes it.

    Raises `Unauthenticated` (`k8s_account_not_allowed`) for names that no SPIFFE ID can have.
    """
    try:
        return trust_domain.member("ns", namespace, "sa", name)
    except CitadelError as error:
        message = f"the service account {namespace}/{name} makes no SPIFFE ID: {error.message}"
        raise Unauthenticated(Reason.K8S_ACCOUNT_NOT_ALLOWED, message) from error
