"""What becomes of a PodCertificateRequest (pure)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from ca.authority.model import Authority
from ca.issuance.lifetime import settle
from ca.issuance.proven import ProvenRequest
from ca.kubernetes.signers.accounts import identity_of
from ca.kubernetes.signers.pod_keys import key_of
from ca.kubernetes.signers.pod_request import PodRequest
from ca.kubernetes.signers.pods_seen import KnownPods, check_pod
from ca.kubernetes.signers.terms import Terms
from citadel.errors import CitadelError, FailedPrecondition, PermissionDenied, Reason, Unavailable

LEAST: Final = timedelta(hours=1)  # the API server takes no shorter life
_MOST_BACKDATE: Final = timedelta(minutes=2)  # nor one that began five minutes ago
# The words that Kubernetes has for some refusals; for all others they are our reasons.
_WORDS: Final = {
    Reason.CSR_KEY_REFUSED: "UnsupportedKeyType",
    Reason.K8S_ANNOTATION_UNKNOWN: "InvalidUnverifiedUserAnnotations",
}
_JITTER: Final = 0.2  # of the life, around its half


def decided(request: PodRequest, terms: Terms, pods: KnownPods, *, waits: bool) -> ProvenRequest:
    """What to sign for it: for its pod's service account, whatever it asks for.

    Raises `PermissionDenied` and `InvalidArgument` where nothing is, `FailedPrecondition` (`lifetime_refused`) where
    nothing can be, and `Unavailable` where that cannot be told yet.
    """
    if request.annotations:
        raise PermissionDenied(
            Reason.K8S_ANNOTATION_UNKNOWN, f"no annotation is known here, such as {request.annotations[0][:100]!r}"
        )
    spiffe_id = identity_of(request.pod.account, terms.namespaces, terms.trust_domain)
    key = key_of(request)
    check_pod(request.pod, pods, waits=waits)
    policy = replace(terms.policy, backdate=min(terms.policy.backdate, _MOST_BACKDATE))
    return ProvenRequest(
        spiffe_id=spiffe_id,
        key=key,
        policy=policy,
        requested_by=terms.door,
        charged_to=(terms.door, request.pod.account),
        lifetime=_life(request, terms) - policy.backdate,  # the API server counts from notBefore
    )


def check_issuer(wanted: ProvenRequest, issuer: Authority, now: datetime) -> None:
    """Raises `Unavailable` (`issuer_unavailable`) where what signs now is too near its end, or its beginning."""
    validity = settle(
        now=now,
        policy=wanted.policy,
        asked=wanted.lifetime,
        entry_expires_at=None,
        issuer_not_before=issuer.not_before,
        issuer_not_after=issuer.not_after,
    )
    if validity.not_after - validity.not_before < LEAST:
        raise Unavailable(
            Reason.ISSUER_UNAVAILABLE, "the issuing authority cannot sign for an hour, and Kubernetes takes no less"
        )


def refresh_at(not_before: datetime, not_after: datetime, drawn: float) -> datetime:
    """When the kubelet is to ask for the next one: at about half of its life, by a number from 0 up to 1."""
    share = 0.5 + _JITTER * (drawn - 0.5)
    return (not_before + (not_after - not_before) * share).replace(microsecond=0)


def word_for(refusal: CitadelError) -> str:
    """The reason of a condition."""
    return _WORDS.get(refusal.reason, refusal.reason.value)


def _life(request: PodRequest, terms: Terms) -> timedelta:
    cap = min(terms.policy.cap, terms.longest_issuer)
    if cap < LEAST:
        raise FailedPrecondition(
            Reason.LIFETIME_REFUSED,
            f"certificates live for {cap} at most here, and Kubernetes takes none for less than an hour",
            fix="raise signers.max_lifetime or authorities.issuer_lifetime in the server's settings",
        )
    return min(max(terms.policy.default, LEAST), cap, request.longest)
