"""Values as wire messages, where several services say the same."""

from __future__ import annotations

from collections.abc import Sequence

from ca.issuance.issuer import IssuedSvid
from citadel._wire import agent_api_pb2, types_pb2
from citadel.bundle import TrustBundle
from citadel.errors import CitadelError


def bundle_message(bundle: TrustBundle) -> types_pb2.Bundle:
    """A bundle beside its trust domain."""
    return types_pb2.Bundle(trust_domain=bundle.trust_domain.name, json=bundle.to_json())


def svid_results(results: Sequence[IssuedSvid | CitadelError]) -> agent_api_pb2.SignX509SvidsResponse:
    """A batch, in its order. Filled in place: a message that is put into another one is copied."""
    response = agent_api_pb2.SignX509SvidsResponse()
    for result in results:
        answer = response.results.add()
        if isinstance(result, CitadelError):
            answer.refusal.code = result.kind.value
            answer.refusal.reason = result.reason.value
            answer.refusal.message = str(result)
            continue
        svid = answer.svid
        svid.spiffe_id = str(result.spiffe_id)
        svid.chain.extend(result.chain_der)
        svid.not_after.seconds = int(result.not_after.timestamp())  # X.509 knows whole seconds only
        svid.lifetime_limited_by = result.limited_by.value
    return response
