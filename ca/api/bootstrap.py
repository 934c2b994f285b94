"""`citadel.v1.Bootstrap`: what can be asked without an identity."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, Protocol

from cryptography.hazmat.primitives.serialization import Encoding

from ca.agents.joining import Joining
from ca.agents.proving import Claim
from ca.agents.rejoining import Rejoining
from ca.agents.x509pop import X509PopJoining
from ca.api.answers import bundle_message
from ca.api.gates import address
from ca.authority.model import Authority
from ca.issuance.press import IssuedSvid
from ca.kubernetes.joining import KubernetesJoining
from citadel._wire import bootstrap_pb2 as pb
from citadel._wire import bootstrap_pb2_grpc
from citadel.bundle import TrustBundle
from citadel.config.types import HostPort
from citadel.errors import InvalidArgument, Reason
from citadel.limiter import RateLimiter
from citadel.succession import Succession
from citadel.succession_wire import succession_to_wire
from citadel.tally import Tally

_BUNDLES_PER_SECOND: Final = 50.0
_PATIENCE: Final = 10.0  # seconds for each message of somebody who proves a key


class Authorities(Protocol):
    """What is to be believed; `ca.authority.manager` is the one there is."""

    def joining_bundle(self) -> TrustBundle:
        """By which an agent knows this server."""
        ...

    def successions(self) -> Sequence[Succession]:
        """What roots that are gone said of those after them."""
        ...

    def issuers(self) -> Sequence[Authority]:
        """The issuing authorities on record, the oldest first."""
        ...


class BootstrapService(bootstrap_pb2_grpc.BootstrapServicer):
    """Hands out the public bundle, redeems tokens, and takes proofs of keys. Limited per address.

    `limiter` is for joins. Bundles have another one that is never slower: who joins reads the bundle before.
    """

    def __init__(
        self,
        *,
        authorities: Authorities,
        joining: Joining,
        x509pop: X509PopJoining,
        rejoining: Rejoining,
        kubernetes: KubernetesJoining,
        limiter: RateLimiter,
        tally: Tally,
        agent_api: HostPort,
    ) -> None:
        self._authorities = authorities
        self._joining = joining
        self._x509pop = x509pop
        self._rejoining = rejoining
        self._kubernetes = kubernetes
        self._joins = limiter
        self._bundles = limiter.at_least(_BUNDLES_PER_SECOND)
        self._tally = tally
        self._agent_api = agent_api

    async def GetBundle(self, request: pb.GetBundleRequest, context: Any) -> pb.GetBundleResponse:
        self._bundles.admit(address(context))
        return pb.GetBundleResponse(
            bundle=bundle_message(self._authorities.joining_bundle()),
            successions=map(succession_to_wire, self._authorities.successions()),
            issuers=[
                certificate.public_bytes(Encoding.DER)
                for issuer in reversed(self._authorities.issuers())  # the newest first: who reads them ends somewhere
                for certificate in (issuer.certificate, *issuer.chain)
            ],
        )

    async def Join(self, request: pb.JoinRequest, context: Any) -> pb.JoinResponse:
        self._joins.admit(address(context))
        return self._welcome(await self._joining.join(request.token, request.csr, origin=_host(context)))

    async def JoinKubernetes(self, request: pb.JoinKubernetesRequest, context: Any) -> pb.JoinResponse:
        self._joins.admit(address(context))
        joining = self._kubernetes.join(request.cluster, request.token, request.csr, origin=_host(context))
        return self._welcome(await joining)

    async def Prove(
        self, request_iterator: AsyncIterator[pb.ProveRequest], context: Any
    ) -> AsyncIterator[pb.ProveResponse]:
        self._joins.admit(address(context))
        claim = await self._claim(await _next(request_iterator))
        yield pb.ProveResponse(nonce=claim.challenge.nonce)
        proof = await _next(request_iterator)
        if proof.WhichOneof("kind") != "signature":
            raise _out_of_turn("the second message must be the signature")
        svid = await claim.proven_by(proof.signature, origin=_host(context))
        yield pb.ProveResponse(joined=self._welcome(svid))

    async def _claim(self, message: pb.ProveRequest) -> Claim:
        match message.WhichOneof("kind"):
            case "certificate":
                return await self._x509pop.claim(message.certificate.chain, message.certificate.csr)
            case "recorded_key":
                asked = message.recorded_key
                return self._rejoining.claim(asked.spiffe_id, asked.public_key, asked.csr)
            case _:
                raise _out_of_turn("the first message must be a claim")

    def _welcome(self, svid: IssuedSvid) -> pb.JoinResponse:
        self._tally.count_issued()
        return pb.JoinResponse(
            spiffe_id=str(svid.spiffe_id),
            chain=svid.chain_der,
            bundle=bundle_message(self._authorities.joining_bundle()),
            agent_api=str(self._agent_api),
        )


async def _next(messages: AsyncIterator[pb.ProveRequest]) -> pb.ProveRequest:
    """The next message. A stranger who says nothing is not waited for."""
    try:
        async with asyncio.timeout(_PATIENCE):
            return await anext(messages)
    except (TimeoutError, StopAsyncIteration):
        raise _out_of_turn("a message is missing") from None


def _out_of_turn(what: str) -> InvalidArgument:
    return InvalidArgument(Reason.REQUEST_MALFORMED, what)


def _host(context: Any) -> str:
    """Where a call comes from, as records say it, without the port that changes with every connection."""
    return str(context.peer()).rpartition(":")[0]
