"""The adapters of `sds.keep.signer.Signer` and `sds.tokens.signer.TokenSigner` that ask the server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

from citadel._wire import agent_api_pb2 as pb
from citadel._wire import agent_api_pb2_grpc
from citadel.call import answer_of
from citadel.errors import CitadelError, Reason
from citadel.rpc import make_error, reason_of
from sds.keep.signer import Signed, SigningRequest
from sds.tokens.signer import TokenRequest


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
        _check_number(response.results, requests)
        return [_result(each) for each in response.results]


class RemoteTokenSigner:
    """Has tokens signed through `api()`, as above."""

    def __init__(self, *, api: Callable[[], agent_api_pb2_grpc.AgentApiAsyncStub]) -> None:
        self._api = api

    async def sign(self, requests: Sequence[TokenRequest], *, within: timedelta) -> Sequence[str | CitadelError]:
        """See `TokenSigner.sign`."""
        message = pb.SignJwtSvidsRequest(
            requests=[pb.JwtSvidRequest(entry_id=each.entry_id, audience=each.audience) for each in requests]
        )
        response = await answer_of(self._api().SignJwtSvids(message, timeout=within.total_seconds()))
        _check_number(response.results, requests)
        return [
            each.svid.token if each.WhichOneof("result") == "svid" else _refusal(each.refusal)
            for each in response.results
        ]


def _result(message: pb.X509SvidResult) -> Signed | CitadelError:
    if message.WhichOneof("result") == "svid":
        return Signed(chain=tuple(message.svid.chain), lifetime_limited_by=message.svid.lifetime_limited_by)
    return _refusal(message.refusal)


def _refusal(message: pb.Refusal) -> CitadelError:
    return make_error(message.code, reason_of(message.reason), message.message)


def _check_number(results: Sequence[object], requests: Sequence[object]) -> None:
    if len(results) != len(requests):
        problem = f"the server answered {len(results)} results to {len(requests)} requests"
        raise CitadelError(Reason.REQUEST_MALFORMED, problem)
