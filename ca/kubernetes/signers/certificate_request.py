"""A CertificateSigningRequest as it waits for an answer, and the answers to it (pure)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from citadel.errors import InvalidArgument, Reason
from citadel.kubernetes.ports import KubeObject
from citadel.kubernetes.reading import part

PATH: Final = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
_BEGIN: Final = b"-----BEGIN CERTIFICATE REQUEST-----"
_END: Final = b"-----END CERTIFICATE REQUEST-----"


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRequest:
    """`username`, `groups` and `extra` are those of who made it, as the API server filled them in.

    `found` is the object as it was read, which is written back with an answer in it.
    """

    name: str
    uid: str
    csr: bytes
    usages: tuple[str, ...]
    username: str
    groups: tuple[str, ...]
    extra: Mapping[str, tuple[str, ...]]
    asked: timedelta | None
    is_approved: bool
    found: KubeObject

    def said(self, key: str) -> str:
        """What `extra` has under this key. Of two values nobody could say which is meant: together they fit nothing."""
        return ",".join(self.extra.get(key, ()))

    def with_condition(self, kind: str, reason: str, message: str) -> KubeObject:
        """The object with one more condition."""
        status = part(self.found, "status")
        condition = {"type": kind, "status": "True", "reason": reason, "message": message}
        return {**self.found, "status": {**status, "conditions": [*(status.get("conditions") or ()), condition]}}

    def with_certificate(self, chain: str) -> KubeObject:
        """The object with its certificate."""
        certificate = base64.b64encode(chain.encode()).decode()
        return {**self.found, "status": {**part(self.found, "status"), "certificate": certificate}}


def waiting_request(found: KubeObject, signer_name: str) -> CertificateRequest | None:
    """The request, or None where it is not for this signer, or has its answer."""
    meta, spec, status = part(found, "metadata"), part(found, "spec"), part(found, "status")
    conditions = {str(_object(each).get("type")) for each in status.get("conditions") or ()}
    if spec.get("signerName") != signer_name or status.get("certificate") or conditions & {"Denied", "Failed"}:
        return None
    seconds = spec.get("expirationSeconds")
    return CertificateRequest(
        name=str(meta.get("name")),
        uid=str(meta.get("uid")),
        csr=_decoded(spec.get("request")),
        usages=tuple(map(str, spec.get("usages") or ())),
        username=str(spec.get("username") or ""),
        groups=tuple(map(str, spec.get("groups") or ())),
        extra={str(key): tuple(map(str, said or ())) for key, said in part(spec, "extra").items()},
        asked=timedelta(seconds=seconds) if isinstance(seconds, int) else None,
        is_approved="Approved" in conditions,
        found=found,
    )


def der_of(pem: bytes) -> bytes:
    """The PKCS#10 request in DER. Raises `InvalidArgument` (`csr_malformed`)."""
    _, begin, rest = pem.partition(_BEGIN)
    text, end, _ = rest.partition(_END)
    try:
        if begin and end:
            return binascii.a2b_base64(text)
    except binascii.Error:
        pass
    raise InvalidArgument(Reason.CSR_MALFORMED, "spec.request is no PKCS#10 request in PEM")


def _decoded(text: object) -> bytes:
    try:
        return base64.b64decode(str(text or ""))
    except binascii.Error:
        return b""  # is no request, and is answered so


def _object(found: object) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {}
