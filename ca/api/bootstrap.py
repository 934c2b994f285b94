"""`citadel.v1.Bootstrap`: what can be asked without an identity."""

from __future__ import annotations

from typing import Any, Final

from ca.agents.joining import Joining
from ca.agents.limiter import RateLimiter
from ca.api.answers import bundle_message, chain_der
from ca.authority.manager import AuthorityManager
from citadel._wire import bootstrap_pb2 as pb
from citadel._wire import bootstrap_pb2_grpc
from citadel.config.types import HostPort
from citadel.tally import Tally

_BUNDLES_PER_SECOND: Final = 50.0


class BootstrapService(bootstrap_pb2_grpc.BootstrapServicer):
    """Hands out the public bundle, and redeems join tokens. Limited per address, because anybody may ask.

    `limiter` is for joins. Bundles have another one that is never slower: who joins reads the bundle before.
    """

    def __init__(
        self,
        *,
        authorities: AuthorityManager,
        joining: Joining,
        limiter: RateLimiter,
        tally: Tally,
        agent_api: HostPort,
    ) -> None:
        self._authorities = authorities
        self._joining = joining
        self._joins = limiter
        self._bundles = limiter.at_least(_BUNDLES_PER_SECOND)
        self._tally = tally
        self._agent_api = agent_api

    async def GetBundle(self, request: pb.GetBundleRequest, context: Any) -> pb.GetBundleResponse:
        self._bundles.admit(_address(context))
        return pb.GetBundleResponse(bundle=bundle_message(self._authorities.bundle()))

    async def Join(self, request: pb.JoinRequest, context: Any) -> pb.JoinResponse:
        self._joins.admit(_address(context))
        svid = await self._joining.join(request.token, request.csr)
        self._tally.count_issued()
        return pb.JoinResponse(
            spiffe_id=str(svid.spiffe_id),
            chain=chain_der(svid.chain),
            bundle=bundle_message(self._authorities.bundle()),
            agent_api=str(self._agent_api),
        )


def _address(context: Any) -> str:
    # "ipv4:10.0.0.7:41234": the port changes with every connection, so only the host is counted.
    return str(context.peer()).rpartition(":")[0]
