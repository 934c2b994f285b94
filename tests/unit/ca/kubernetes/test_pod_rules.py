"""What becomes of a PodCertificateRequest: one row for each wish and each pod."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.issuance.lifetime import settle
from ca.issuance.proven import ProvenRequest
from ca.kubernetes.signers.pod_request import PodRequest, waiting_pod_request
from ca.kubernetes.signers.pod_rules import decided, refresh_at, word_for
from ca.kubernetes.signers.terms import Terms
from citadel.errors import CitadelError, FailedPrecondition, Unavailable
from tests.csrs import csr, new_key, with_wrong_signature
from tests.unit.ca.kubernetes.signing import SIGNER, KnownPods, terms

KEY = new_key()
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=3072)
UID = b"u-pod"
NOW = datetime(2026, 1, 1, 12, 0, 0, 700_000, tzinfo=UTC)


def found(**spec: Any) -> dict[str, Any]:
    """The object of a good request for pod shop/web-1; `spec` changes it."""
    asked = {
        "signerName": SIGNER,
        "podName": "web-1",
        "podUID": UID.decode(),
        "serviceAccountName": "web",
        "nodeName": "n1",
        "maxExpirationSeconds": 86400,
        "stubPKCS10Request": _text(csr(KEY)),
    }
    return {"metadata": {"namespace": "shop", "name": "one", "uid": "u-one"}, "spec": asked | spec}


def waiting(**spec: Any) -> PodRequest:
    request = waiting_pod_request(found(**spec), SIGNER)
    assert request is not None
    return request


def decide(request: PodRequest, by: Terms | None = None, *, waits: bool = False) -> ProvenRequest:
    return decided(request, by or terms(), KnownPods(), waits=waits)


def plain(public: Any, proof: bytes) -> dict[str, Any]:
    """A key as older versions of Kubernetes write it."""
    info = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return {"stubPKCS10Request": None, "pkixPublicKey": _text(info), "proofOfPossession": _text(proof)}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
ECDSA = ec.ECDSA(hashes.SHA256())
EDWARDS = ed25519.Ed25519PrivateKey.generate()


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"unverifiedUserAnnotations": {"a.test/id": "admin"}}, "InvalidUnverifiedUserAnnotations"),
        ({"stubPKCS10Request": _text(csr(EDWARDS))}, "UnsupportedKeyType"),
        ({"stubPKCS10Request": _text(csr(new_key(ec.SECP521R1())))}, "UnsupportedKeyType"),
        (plain(EDWARDS.public_key(), EDWARDS.sign(UID)), "UnsupportedKeyType"),
        ({"stubPKCS10Request": _text(with_wrong_signature(csr(KEY)))}, "csr_bad_signature"),
        ({"stubPKCS10Request": _text(b"no request")}, "csr_malformed"),
        ({"stubPKCS10Request": None}, "csr_malformed"),
        ({"stubPKCS10Request": _text(csr(KEY, names=("spiffe://a.test/admin",)))}, "csr_wish_refused"),
        (plain(KEY.public_key(), KEY.sign(b"u-other", ECDSA)), "csr_bad_signature"),
        (plain(KEY.public_key(), b""), "csr_bad_signature"),
        (plain(RSA_KEY.public_key(), RSA_KEY.sign(UID, padding.PKCS1v15(), hashes.SHA256())), "csr_bad_signature"),
        ({"podUID": "u-gone"}, "k8s_pod_unknown"),
        ({"podUID": "u-ended", "podName": "job-1"}, "k8s_pod_unknown"),
        ({"podUID": "u-other", "podName": "api-1"}, "k8s_pod_unknown"),
        ({"podName": "web-2"}, "k8s_pod_unknown"),
        ({"serviceAccountName": "api"}, "k8s_pod_unknown"),
        ({"nodeName": "n2"}, "k8s_pod_unknown"),
    ],
)
def test_a_refusal_says_why(given: dict[str, Any], word: str) -> None:
    with pytest.raises(CitadelError) as refused:
        decide(waiting(**given))
    assert not isinstance(refused.value, Unavailable | FailedPrecondition)
    assert word_for(refused.value) == word


def test_a_namespace_that_is_not_meant_gets_nothing() -> None:
    request = found()
    request["metadata"]["namespace"] = "kube-system"
    asked = waiting_pod_request(request, SIGNER)
    assert asked is not None
    with pytest.raises(CitadelError) as refused:
        decide(asked)
    assert refused.value.reason.value == "k8s_account_not_allowed"


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({}, KEY),
        (plain(KEY.public_key(), KEY.sign(UID, ECDSA)), KEY),
        (plain(RSA_KEY.public_key(), RSA_KEY.sign(UID, PSS, hashes.SHA256())), RSA_KEY),
        ({"stubPKCS10Request": _text(csr(RSA_KEY))}, RSA_KEY),
    ],
)
def test_the_identity_is_the_pods_and_the_key_is_the_one_that_was_proved(given: dict[str, Any], key: Any) -> None:
    wanted = decide(waiting(**given))
    assert str(wanted.spiffe_id) == "spiffe://a.test/ns/shop/sa/web"
    assert wanted.public_key() == key.public_key()


def test_a_pod_that_is_not_known_yet_is_waited_for() -> None:
    with pytest.raises(Unavailable):
        decide(waiting(podUID="u-new"), waits=True)


HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("asked", "given", "life"),
    [
        (86400, {}, 24 * HOUR),
        (3600, {}, HOUR),  # exactly: less is refused by the API server, and more is too
        (7 * 86400, {}, 24 * HOUR),
        (86400, {"cap": 2 * HOUR, "default": 2 * HOUR}, 2 * HOUR),
        (86400, {"default": HOUR / 2}, HOUR),
        (86400, {"default": 3 * HOUR}, 3 * HOUR),
        (3600, {"backdate": timedelta(minutes=30)}, HOUR),
        (86400, {"longest_issuer": 5 * HOUR}, 5 * HOUR),
    ],
)
def test_the_life_counts_from_its_beginning_and_is_one_that_kubernetes_takes(
    asked: int, given: dict[str, Any], life: timedelta
) -> None:
    wanted = decide(waiting(maxExpirationSeconds=asked), terms(**given))
    validity = settle(
        now=NOW,
        policy=wanted.policy,
        asked=wanted.lifetime,
        entry_expires_at=None,
        issuer_not_before=NOW - 24 * HOUR,
        issuer_not_after=NOW + 7 * 24 * HOUR,
    )
    assert validity.not_after - validity.not_before == life
    assert NOW - validity.not_before < timedelta(minutes=5)


@pytest.mark.parametrize("given", [{"cap": HOUR / 2}, {"longest_issuer": HOUR / 2}])
def test_where_nothing_lives_for_an_hour_the_request_fails(given: dict[str, Any]) -> None:
    with pytest.raises(FailedPrecondition, match="max_lifetime") as failed:
        decide(waiting(), terms(**given))
    assert failed.value.reason.value == "lifetime_refused"


@pytest.mark.parametrize("life", [HOUR, 24 * HOUR])
@pytest.mark.parametrize("drawn", [0.0, 0.5, 0.999])
def test_it_is_asked_anew_at_about_half_of_its_life(life: timedelta, drawn: float) -> None:
    at = refresh_at(NOW, NOW + life, drawn) - NOW
    assert 0.39 * life < at < 0.61 * life
    assert timedelta(minutes=10) < at < life - timedelta(minutes=10)  # what the API server takes


@pytest.mark.parametrize("kind", ["Issued", "Denied", "Failed"])
def test_what_has_its_answer_does_not_wait(kind: str) -> None:
    assert waiting_pod_request(found() | {"status": {"conditions": [{"type": kind}]}}, SIGNER) is None


@pytest.mark.parametrize("spoilt", [{}, {"spec": 1}, {"spec": {"signerName": SIGNER}, "status": {"conditions": [1]}}])
def test_an_object_in_no_form_that_is_known_breaks_nothing(spoilt: dict[str, Any]) -> None:
    request = waiting_pod_request(spoilt, SIGNER)
    if request is not None:
        with pytest.raises(CitadelError):
            decide(request)
