"""Signers of clusters of Kubernetes, wired."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry

from ca.authority.manager import AuthorityManager
from ca.issuance.issuer import Issuer
from ca.issuance.lifetime import LifetimePolicy
from ca.kubernetes.settings import SignerSettings
from ca.kubernetes.signers.certificate_requests import CertificateRequests
from ca.kubernetes.signers.metrics import SignerCollector
from ca.kubernetes.signers.pod_certificates import PodCertificates
from ca.kubernetes.signers.refusing import Refusing
from ca.kubernetes.signers.roots import root_notes
from ca.kubernetes.signers.signing import Signing
from ca.kubernetes.signers.terms import Terms
from ca.settings import ServerSettings
from citadel.clock import Clock
from citadel.reserved import k8s_door_id
from citadel.tally import Tally
from cli.server_kubernetes import Cluster, KubernetesAffairs

_CERTIFICATE_REQUESTS: Final = "certificate-requests"
_POD_CERTIFICATES: Final = "pod-certificates"


@dataclass(frozen=True, kw_only=True)
class SignerSurroundings:
    """What signers are made of."""

    settings: ServerSettings
    authorities: AuthorityManager
    issuer: Issuer
    tally: Tally
    clock: Clock


def hang_signers(kubernetes: KubernetesAffairs, around: SignerSurroundings, metrics: CollectorRegistry) -> None:
    """Answer what the settings say is to be answered."""
    certificate_requests: dict[str, CertificateRequests] = {}
    pod_certificates: dict[str, PodCertificates] = {}
    for name, cluster in kubernetes.clusters.items():
        if (signers := cluster.settings.signers) is None:
            continue
        cluster.notes.append(partial(root_notes, cluster.settings))
        if signers.certificate_requests != "off":
            requests = certificate_requests[name] = _certificate_requests(cluster, signers, around)
            cluster.work["CertificateSigningRequests"] = requests.run
            cluster.notes.append(requests.notes)
            cluster.tell_of(requests.basis, clock=around.clock)
        if signers.pod_certificates:
            pods = pod_certificates[name] = _pod_certificates(cluster, signers, around)
            cluster.work["PodCertificateRequests"] = pods.run
            cluster.notes.append(pods.notes)
            cluster.tell_of(pods.basis, clock=around.clock)
    metrics.register(SignerCollector(certificate_requests, pod_certificates))


def _certificate_requests(cluster: Cluster, signers: SignerSettings, around: SignerSurroundings) -> CertificateRequests:
    terms = _terms(cluster, signers, around, _CERTIFICATE_REQUESTS)
    return CertificateRequests(
        cluster.api,
        terms=terms,
        approves=signers.certificate_requests == "service-accounts",
        signing=Signing(around.issuer, clock=around.clock),
        pods=cluster.pods,
        refusing=Refusing(around.tally, door=terms.door, what="kubernetes.certificate_request"),
        clock=around.clock,
    )


def _pod_certificates(cluster: Cluster, signers: SignerSettings, around: SignerSurroundings) -> PodCertificates:
    terms = _terms(cluster, signers, around, _POD_CERTIFICATES)
    return PodCertificates(
        cluster.api,
        terms=terms,
        issuers=around.authorities,
        signing=Signing(around.issuer, clock=around.clock),
        pods=cluster.pods,
        refusing=Refusing(around.tally, door=terms.door, what="kubernetes.pod_certificate"),
        clock=around.clock,
    )


def _terms(cluster: Cluster, signers: SignerSettings, around: SignerSurroundings, door: str) -> Terms:
    settings = around.settings
    return Terms(
        signer_name=signers.signer_name,
        trust_domain=settings.trust_domain,
        namespaces=signers.namespaces,
        policy=LifetimePolicy(
            default=signers.default_lifetime,
            own=signers.default_lifetime,
            cap=signers.max_lifetime,
            backdate=settings.svids.backdate,
        ),
        longest_issuer=settings.authorities.issuer_lifetime,
        door=k8s_door_id(settings.trust_domain, cluster.name, door),
    )
