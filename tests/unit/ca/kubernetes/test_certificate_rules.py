"""What becomes of a CertificateSigningRequest: one row for each wish and each requester."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from ca.issuance.proven import ProvenRequest
from ca.kubernetes.signers.certificate_request import CertificateRequest, waiting_request
from ca.kubernetes.signers.certificate_rules import decided
from citadel.errors import CitadelError, Reason, Unavailable
from citadel.kubernetes.settings import NamespaceSettings
from tests.certificates import UNNAMED_FEATURE, key_usage
from tests.csrs import csr, new_key, with_wrong_signature
from tests.unit.ca.kubernetes.signing import SIGNER, KnownPods, terms

KEY = new_key()
POD = "authentication.kubernetes.io/pod-"


def found(der: bytes | None = None, *, pem: bytes | None = None, **spec: Any) -> dict[str, Any]:
    """The object of a good request for the service account shop/web; `spec` changes it."""
    if pem is None:
        pem = x509.load_der_x509_csr(der or csr(KEY)).public_bytes(Encoding.PEM)
    asked = {
        "request": base64.b64encode(pem).decode(),
        "signerName": SIGNER,
        "usages": ["digital signature", "key encipherment", "client auth", "server auth"],
        "username": "system:serviceaccount:shop:web",
        "groups": ["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"],
    }
    return {"metadata": {"name": "one", "uid": "u-one"}, "spec": asked | spec}


def waiting(der: bytes | None = None, **spec: Any) -> CertificateRequest:
    request = waiting_request(found(der, **spec), SIGNER)
    assert request is not None
    return request


def decide(request: CertificateRequest, *, waits: bool = False, pods: KnownPods | None = None) -> ProvenRequest:
    return decided(request, terms(), pods or KnownPods(), waits=waits)


def extra(uid: str = "u-pod", name: str = "web-1", node: str = "n1") -> dict[str, Any]:
    return {"extra": {f"{POD}uid": [uid], f"{POD}name": [name], "authentication.kubernetes.io/node-name": [node]}}


def asking_for(extension: x509.ExtensionType) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.add_extension(extension, critical=True).sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER)


NAMES = x509.SubjectAlternativeName(
    [x509.UniformResourceIdentifier("spiffe://a.test/admin"), x509.DNSName("shop.example.org")]
)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"username": "kubernetes-admin"}, "k8s_account_not_allowed"),
        ({"username": "system:node:n1"}, "k8s_account_not_allowed"),
        ({"username": "system:serviceaccount:shop:web:more"}, "k8s_account_not_allowed"),
        ({"username": "system:serviceaccount:shop/../x:web"}, "k8s_account_not_allowed"),
        ({"groups": ["system:authenticated"]}, "k8s_account_not_allowed"),
        ({"groups": ["system:serviceaccounts", "system:serviceaccounts:other"]}, "k8s_account_not_allowed"),
        (
            {
                "username": "system:serviceaccount:kube-system:web",
                "groups": ["system:serviceaccounts", "system:serviceaccounts:kube-system"],
            },
            "k8s_account_not_allowed",
        ),
        ({"usages": ["digital signature", "cert sign"]}, "csr_wish_refused"),
        ({"usages": ["any"]}, "csr_wish_refused"),
        ({"usages": ["code signing"]}, "csr_wish_refused"),
        ({"der": asking_for(x509.BasicConstraints(ca=True, path_length=None))}, "csr_wish_refused"),
        ({"der": asking_for(key_usage("key_cert_sign"))}, "csr_wish_refused"),
        ({"der": asking_for(key_usage("crl_sign"))}, "csr_wish_refused"),
        ({"der": csr(ed25519.Ed25519PrivateKey.generate())}, "csr_key_refused"),
        ({"der": csr(new_key(ec.SECP521R1()))}, "csr_key_refused"),
        ({"pem": b"no PEM"}, "csr_malformed"),
        ({"pem": b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"}, "csr_malformed"),
        ({"der": with_wrong_signature(csr())}, "csr_bad_signature"),
        (extra(uid="u-gone"), "k8s_pod_unknown"),
        (extra(uid="u-ended", name="job-1"), "k8s_pod_unknown"),
        (extra(uid="u-other", name="api-1"), "k8s_pod_unknown"),
        (extra(name="web-2"), "k8s_pod_unknown"),
        (extra(node="n2"), "k8s_pod_unknown"),
        ({"extra": {f"{POD}uid": ["u-pod", "u-other"], f"{POD}name": ["web-1"]}}, "k8s_pod_unknown"),
    ],
)
def test_a_refusal_says_why(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(CitadelError) as refused:
        decide(waiting(**given))
    assert not isinstance(refused.value, Unavailable)
    assert refused.value.reason.value == reason


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"der": asking_for(NAMES)},
        {"der": asking_for(x509.BasicConstraints(ca=False, path_length=None))},
        {"der": asking_for(key_usage("digital_signature"))},
        {"der": asking_for(UNNAMED_FEATURE)},
        {"der": csr(KEY, subject=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "system:masters")]))},
        {"usages": ["key agreement"]},
        extra(),
        extra(node=""),
    ],
)
def test_what_is_signed_is_for_who_made_it_whatever_it_wishes(given: dict[str, Any]) -> None:
    wanted = decide(waiting(**given))
    assert str(wanted.spiffe_id) == "spiffe://a.test/ns/shop/sa/web"
    assert wanted.public_key() == KEY.public_key()
    assert wanted.dns_names == ()


def test_a_longer_life_than_is_given_is_shortened_by_the_cap() -> None:
    assert decide(waiting()).lifetime is None
    wanted = decide(waiting(expirationSeconds=365 * 86400))
    assert wanted.lifetime == timedelta(days=365)  # which the policy cuts
    assert wanted.policy.cap == timedelta(days=1)


def _unsynced(pods: KnownPods) -> None:
    pods.has_synced = False


def _away(pods: KnownPods) -> None:
    pods.trouble = Unavailable(Reason.KUBERNETES_UNAVAILABLE, "the API server does not answer")


@pytest.mark.parametrize(("how", "waits"), [(_unsynced, False), (_away, False), (lambda _: None, True)])
def test_a_pod_that_is_not_known_yet_is_never_guessed(how: Callable[[KnownPods], None], waits: bool) -> None:
    pods = KnownPods()
    how(pods)
    with pytest.raises(Unavailable):
        decide(waiting(**extra(uid="u-new")), waits=waits, pods=pods)


@pytest.mark.parametrize(
    "changed",
    [
        {"spec": {"signerName": "other.test/workload"}},
        {"status": {"certificate": "AAAA"}},
        {"status": {"conditions": [{"type": "Denied"}]}},
        {"status": {"conditions": [{"type": "Approved"}, {"type": "Failed"}]}},
    ],
)
def test_what_is_of_others_or_has_its_answer_does_not_wait(changed: dict[str, Any]) -> None:
    request = found()
    request["spec"] |= changed.pop("spec", {})
    assert waiting_request(request | changed, SIGNER) is None


@pytest.mark.parametrize("spoilt", [{}, {"spec": None}, {"spec": [], "status": 7}, {"status": {"conditions": ["x"]}}])
def test_an_object_in_no_form_that_is_known_breaks_nothing(spoilt: dict[str, Any]) -> None:
    assert waiting_request(spoilt, SIGNER) is None


def test_a_namespace_is_meant_by_pattern() -> None:
    meant = terms(namespaces=NamespaceSettings(include=("sh*",)))
    assert decided(waiting(), meant, KnownPods(), waits=False).spiffe_id.path == "/ns/shop/sa/web"
