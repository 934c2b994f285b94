"""Values as wire messages, where several services say the same."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.issuance.issuer import IssuedSvid
from citadel._wire import agent_api_pb2, types_pb2
from citadel.bundle import TrustBundle
from citadel.errors import CitadelError
from citadel.wire import to_timestamp


def chain_der(chain: Sequence[x509.Certificate]) -> list[bytes]:
    """A chain as DER, leaf first."""
    return [certificate.public_bytes(Encoding.DER) for certificate in chain]


def bundle_message(bundle: TrustBundle) -> types_pb2.Bundle:
    """A bundle beside its trust domain."""
    return types_pb2.Bundle(trust_domain=bundle.trust_domain.name, json=bundle.to_json())


def svid_result(result: IssuedSvid | CitadelError) -> agent_api_pb2.X509SvidResult:
    """One item of a batch."""
    if isinstance(result, CitadelError):
        refusal = agent_api_pb2.Refusal(code=result.kind.value, reason=result.reason.value, message=str(result))
        return agent_api_pb2.X509SvidResult(refusal=refusal)
    return agent_api_pb2.X509SvidResult(
        svid=agent_api_pb2.X509Svid(
            spiffe_id=str(result.spiffe_id),
            chain=result.chain_der,
            not_after=to_timestamp(result.not_after),
            lifetime_limited_by=result.limited_by.value,
        )
    )
