"""What becomes of a CertificateSigningRequest (pure)."""

from __future__ import annotations

from typing import Final

from ca.issuance.proven import ProvenRequest
from ca.kubernetes.signers.accounts import account_of, identity_of
from ca.kubernetes.signers.certificate_request import CertificateRequest, der_of
from ca.kubernetes.signers.pods_seen import KnownPods, PodClaim, check_pod
from ca.kubernetes.signers.terms import Terms
from ca.kubernetes.signers.wishes import check_usages, key_in

_POD_NAME: Final = "authentication.kubernetes.io/pod-name"
_POD_UID: Final = "authentication.kubernetes.io/pod-uid"
_NODE_NAME: Final = "authentication.kubernetes.io/node-name"


def decided(request: CertificateRequest, terms: Terms, pods: KnownPods, *, waits: bool) -> ProvenRequest:
    """What to sign for it: for who made it, whatever it asks for.

    Raises `PermissionDenied` and `InvalidArgument` where nothing is, and `Unavailable` where that cannot be told yet.
    """
    account = account_of(request.username, request.groups)
    spiffe_id = identity_of(account, terms.namespaces, terms.trust_domain)
    check_usages(request.usages)
    key = key_in(der_of(request.csr))
    if (claim := claim_of(request)) is not None:  # the certificate is for as long as there is that pod
        check_pod(claim, pods, waits=waits)
    return ProvenRequest(
        spiffe_id=spiffe_id,
        key=key,
        policy=terms.policy,
        requested_by=terms.door,
        charged_to=(terms.door, account),
        lifetime=request.asked,
    )


def claim_of(request: CertificateRequest) -> PodClaim | None:
    """The pod that its maker's token is bound to. Raises as `account_of`."""
    account, uid = account_of(request.username, request.groups), request.said(_POD_UID)
    if not uid:
        return None
    return PodClaim(account=account, name=request.said(_POD_NAME), uid=uid, node=request.said(_NODE_NAME))
