"""A PodCertificateRequest as it waits for an answer, and the answers to it (pure)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from ca.kubernetes.signers.accounts import Account
from ca.kubernetes.signers.pods_seen import PodClaim
from citadel.kubernetes.ports import KubeObject
from citadel.kubernetes.reading import part

RESOURCE: Final = "podcertificaterequests"
_DEFAULT: Final = timedelta(days=1)  # what the API server fills in
_ANSWERS: Final = frozenset({"Issued", "Denied", "Failed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRequest:
    """The pod is as the API server's admission has verified it. One of `csr` and `public_key` is not empty.

    `found` is the object as it was read, which is written back with an answer in it.
    """

    namespace: str
    name: str
    uid: str
    pod: PodClaim
    longest: timedelta
    csr: bytes
    public_key: bytes
    proof: bytes
    annotations: tuple[str, ...]
    found: KubeObject

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    def with_answer(self, kind: str, reason: str, message: str, at: datetime, **status: str) -> KubeObject:
        """The object with its one condition, and with what else is to stand in its status."""
        condition = {
            "type": kind,
            "status": "True",
            "reason": reason,
            "message": message,
            "lastTransitionTime": rfc3339(at),
        }
        return {**self.found, "status": {"conditions": [condition], **status}}


def waiting_pod_request(found: KubeObject, signer_name: str) -> PodRequest | None:
    """The request, or None where it is not for this signer, or has its answer."""
    meta, spec, status = part(found, "metadata"), part(found, "spec"), part(found, "status")
    conditions = {str(each.get("type")) for each in status.get("conditions") or () if isinstance(each, Mapping)}
    if spec.get("signerName") != signer_name or conditions & _ANSWERS:
        return None
    namespace, seconds = str(meta.get("namespace")), spec.get("maxExpirationSeconds")
    return PodRequest(
        namespace=namespace,
        name=str(meta.get("name")),
        uid=str(meta.get("uid")),
        pod=PodClaim(
            account=Account(namespace, str(spec.get("serviceAccountName"))),
            name=str(spec.get("podName")),
            uid=str(spec.get("podUID")),
            node=str(spec.get("nodeName")),
        ),
        longest=timedelta(seconds=seconds) if isinstance(seconds, int) else _DEFAULT,
        csr=_decoded(spec, "stubPKCS10Request"),
        public_key=_decoded(spec, "pkixPublicKey"),
        proof=_decoded(spec, "proofOfPossession"),
        annotations=tuple(map(str, part(spec, "unverifiedUserAnnotations"))),
        found=found,
    )


def rfc3339(moment: datetime) -> str:
    """In whole seconds, as Kubernetes writes times."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _decoded(spec: Mapping[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(str(spec.get(name) or ""))
    except binascii.Error:
        return b""  # is no key, and is answered so
