"""The key of a PodCertificateRequest, and that its holder has it (pure)."""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ca.issuance.csr import WorkloadPublicKey, accepted
from ca.kubernetes.signers.pod_request import PodRequest
from ca.kubernetes.signers.wishes import key_in
from citadel.errors import InvalidArgument, Reason

_PSS: Final = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.AUTO)


def key_of(request: PodRequest) -> WorkloadPublicKey:
    """The key to certify: of an empty PKCS#10 request, or in older versions plain with a signature of the pod's UID.

    Raises as `ca.issuance.csr.public_key_of`.
    """
    if request.csr:
        return key_in(request.csr)
    try:
        key = accepted(load_der_public_key(request.public_key))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidArgument(Reason.CSR_MALFORMED, "spec.pkixPublicKey is no public key") from error
    if not _has_proved(key, request):
        raise InvalidArgument(
            Reason.CSR_BAD_SIGNATURE, "spec.proofOfPossession is no signature of the pod's UID by that key"
        )
    return key


def _has_proved(key: WorkloadPublicKey, request: PodRequest) -> bool:
    uid = request.pod.uid.encode()
    try:
        match key:
            case ec.EllipticCurvePublicKey():
                key.verify(request.proof, uid, ec.ECDSA(hashes.SHA256()))
            case rsa.RSAPublicKey():
                key.verify(request.proof, uid, _PSS, hashes.SHA256())
    except InvalidSignature:
        return False
    return True
