"""Values as wire messages, where several services say the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ca.issuance.jwt import IssuedJwt
from ca.issuance.press import IssuedSvid
from citadel._wire import agent_api_pb2, types_pb2
from citadel.bundle import TrustBundle
from citadel.errors import CitadelError


def bundle_message(bundle: TrustBundle, *, for_workloads_alone: Iterable[bytes] = ()) -> types_pb2.Bundle:
    """A bundle beside its trust domain. What is for workloads alone is named by the SHA-256 of the authorities."""
    return types_pb2.Bundle(
        trust_domain=bundle.trust_domain.name, json=bundle.to_json(), for_workloads_alone=for_workloads_alone
    )


def svid_results(results: Sequence[IssuedSvid | CitadelError]) -> agent_api_pb2.SignX509SvidsResponse:
    """A batch, in its order. Filled in place: a message that is put into another one is copied."""
    response = agent_api_pb2.SignX509SvidsResponse()
    for result in results:
        answer = response.results.add()
        if isinstance(result, CitadelError):
            answer.refusal.CopyFrom(refusal_of(result))
            continue
        svid = answer.svid
        svid.spiffe_id = str(result.spiffe_id)
        svid.chain.extend(result.chain_der)
        svid.not_after.seconds = int(result.not_after.timestamp())  # X.509 knows whole seconds only
        svid.lifetime_limited_by = result.limited_by.value
    return response


def jwt_results(results: Sequence[IssuedJwt | CitadelError]) -> agent_api_pb2.SignJwtSvidsResponse:
    """A batch of tokens, in its order."""
    response = agent_api_pb2.SignJwtSvidsResponse()
    for result in results:
        answer = response.results.add()
        if isinstance(result, CitadelError):
            answer.refusal.CopyFrom(refusal_of(result))
            continue
        svid = answer.svid
        svid.spiffe_id, svid.token = str(result.spiffe_id), result.token
        svid.issued_at.seconds = int(result.issued_at.timestamp())
        svid.expires_at.seconds = int(result.expires_at.timestamp())
        svid.lifetime_limited_by = result.limited_by.value
    return response


def refusal_of(error: CitadelError) -> agent_api_pb2.Refusal:
    """The refusal of one item."""
    return agent_api_pb2.Refusal(code=error.kind.value, reason=error.reason.value, message=str(error))
