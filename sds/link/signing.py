"""The adapter of `sds.keep.signer.Signer` that asks the server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

from citadel._wire import agent_api_pb2 as pb
from citadel._wire import agent_api_pb2_grpc
from citadel.errors import CitadelError, Reason
from citadel.rpc import make_error, reason_of
from sds.keep.signer import Signed, SigningRequest
from sds.link.call import answer_of


class RemoteSigner:
    """Signs through `api()`, which gives the line in use."""

    def __init__(self, *, api: Callable[[], agent_api_pb2_grpc.AgentApiAsyncStub]) -> None:
        self._api = api

    async def sign(self, requests: Sequence[SigningRequest], *, within: timedelta) -> Sequence[Signed | CitadelError]:
        """See `Signer.sign`."""
        message = pb.SignX509SvidsRequest(
            requests=[pb.X509SvidRequest(entry_id=request.entry_id, csr=request.csr) for request in requests]
        )
        response = await answer_of(self._api().SignX509Svids(message, timeout=within.total_seconds()))
        if len(response.results) != len(requests):
            problem = f"the server answered {len(response.results)} results to {len(requests)} requests"
            raise CitadelError(Reason.REQUEST_MALFORMED, problem)
        return [_result(each) for each in response.results]


def _result(message: pb.X509SvidResult) -> Signed | CitadelError:
    if message.WhichOneof("result") == "svid":
        return Signed(chain=tuple(message.svid.chain), lifetime_limited_by=message.svid.lifetime_limited_by)
    refusal = message.refusal
    return make_error(refusal.code, reason_of(refusal.reason), refusal.message)
