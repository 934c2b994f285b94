"""A client of the SPIFFE Workload API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final

import grpc
from grpc import aio

from citadel._wire import workload_pb2 as pb
from citadel._wire.workload_pb2_grpc import SpiffeWorkloadAPIStub
from citadel.errors import CitadelError, FailedPrecondition, Reason, Unavailable
from citadel.rpc import from_rpc_error
from citadel.spiffe import SpiffeId
from citadel.x509_context import X509Context, parse_x509_context
from cli.workload.address import ADDRESS_VARIABLE, EndpointAddress
from cli.workload.tokens import WorkloadToken, parse_tokens

_HEADER: Final = (("workload.spiffe.io", "true"),)  # WEP-05
_MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024  # bundles of many federated domains; the agent is trusted

# A pool of its own: another try is another connection, without the pauses that gRPC makes for the old one.
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.use_local_subchannel_pool", 1),
)


class WorkloadClient:
    """Speaks to one endpoint, over a connection of its own for each call."""

    def __init__(self, address: EndpointAddress) -> None:
        self.address = address

    async def fetch_x509_context(self, *, within: float) -> X509Context:
        """What this workload may have now, waited for at most `within` seconds.

        Raises the endpoint's own refusal (`no_identity`, `not_ready`), `Unavailable` (`server_unreachable`) where none
        answers, or `InvalidArgument` where the answer cannot be used.
        """
        async with aclosing(self._messages(within=within)) as messages:
            async for message in messages:
                return parse_x509_context(message)
        raise Unavailable(Reason.NOT_READY, f"{self.address} ended the stream without an answer")

    async def watch_x509_context(self) -> AsyncGenerator[X509Context | CitadelError, None]:
        """What this workload may have, now and after every change, until the endpoint ends the stream.

        Each message is a whole: what it does not name is no longer this workload's (WAPI-11, WAPI-12). One that cannot
        be used is handed on as what is wrong with it (WAPI-14). Raises as `fetch_x509_context`.
        """
        async with aclosing(self._messages(within=None)) as messages:
            async for message in messages:
                try:
                    context: X509Context | CitadelError = parse_x509_context(message)
                except CitadelError as error:
                    context = error
                yield context

    async def fetch_jwt_svids(
        self, audience: Sequence[str], spiffe_id: SpiffeId | None = None, *, within: float
    ) -> Sequence[WorkloadToken]:
        """A token of every identity of this workload, or of the one that is named. Raises as `fetch_x509_context`."""
        request = pb.JWTSVIDRequest(audience=audience, spiffe_id=str(spiffe_id) if spiffe_id is not None else "")
        return parse_tokens(await self._answer(lambda api: api.FetchJWTSVID, request, within=within))

    async def validate_jwt_svid(self, token: str, audience: str, *, within: float) -> SpiffeId:
        """Whom the token is of, by the endpoint's judgement (WAPI-42). Raises its refusal, as `fetch_x509_context`."""
        request = pb.ValidateJWTSVIDRequest(audience=audience, svid=token)
        answer = await self._answer(lambda api: api.ValidateJWTSVID, request, within=within)
        return SpiffeId.parse(answer.spiffe_id)

    async def _answer(self, method: Callable[[Any], Any], request: object, *, within: float) -> Any:
        async with aio.insecure_channel(self.address.target, options=_OPTIONS) as channel:
            try:
                return await method(SpiffeWorkloadAPIStub(channel))(request, metadata=_HEADER, timeout=within)
            except grpc.RpcError as error:
                raise self._refusal(error, "JWT-SVIDs") from error

    async def _messages(self, *, within: float | None) -> AsyncGenerator[pb.X509SVIDResponse, None]:
        async with aio.insecure_channel(self.address.target, options=_OPTIONS) as channel:
            call = SpiffeWorkloadAPIStub(channel).FetchX509SVID(pb.X509SVIDRequest(), metadata=_HEADER, timeout=within)
            try:
                async for message in call:
                    yield message
            except grpc.RpcError as error:
                raise self._refusal(error, "X509-SVIDs") from error

    def _refusal(self, error: grpc.RpcError, what: str) -> CitadelError:
        refusal = from_rpc_error(error)
        if isinstance(error, aio.AioRpcError) and error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return FailedPrecondition(
                Reason.REQUEST_MALFORMED,
                f"{self.address} does not offer {what}",
                fix="name the socket of an agent",
            )
        if refusal.reason is Reason.SERVER_UNREACHABLE:
            return Unavailable(
                Reason.SERVER_UNREACHABLE,
                f"no agent answers at {self.address}: {refusal.message}",
                fix=f"start `citadel agent run`, or name its socket with --socket or {ADDRESS_VARIABLE}",
            )
        return refusal
