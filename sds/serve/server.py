"""The workloads' socket: the relay, and behind it the gRPC server with everything that callers may ask."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from envoy.service.secret.v3 import sds_pb2, sds_pb2_grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from citadel.clock import Clock
from citadel.relay import Relay
from citadel.rpc import ErrorBorder, OnRefusal
from citadel.spiffe import TrustDomain
from sds.holdings import HoldingsFeed
from sds.serve.callers import Callers, WorkloadAttestor
from sds.serve.expiries import Expiries
from sds.serve.registry import StreamRegistry
from sds.serve.secrets import SecretShelf
from sds.serve.service import SecretDiscovery

# Everybody may connect: what a caller gets is decided by who the kernel says it is.
_SOCKET_MODE: Final = 0o666
_MAX_CONNECTIONS: Final = 8192
_MAX_CONNECTIONS_OF_A_USER: Final = 1024
_MAX_STREAMS_OF_A_CONNECTION: Final = 128  # one for each secret; Envoy makes another connection where it needs more
_MAX_REQUEST_BYTES: Final = 1024 * 1024  # Envoy's Node, which comes with a request, is about 61 KB

_SDS: Final = sds_pb2.DESCRIPTOR.services_by_name["SecretDiscoveryService"].full_name


class WorkloadServer:
    """Serves the holdings in `feed` to the workloads and proxies that connect to `socket`.

    `on_refusal` is told the method and the error of every refusal.
    """

    def __init__(
        self,
        *,
        socket: Path,
        trust_domain: TrustDomain,
        feed: HoldingsFeed,
        attestor: WorkloadAttestor,
        registry: StreamRegistry,
        clock: Clock,
        on_refusal: OnRefusal | None = None,
    ) -> None:
        self._relay = Relay(
            socket,
            mode=_SOCKET_MODE,
            max_connections=_MAX_CONNECTIONS,
            max_connections_per_uid=_MAX_CONNECTIONS_OF_A_USER,
        )
        self._expiries = Expiries(clock=clock)
        self._service = SecretDiscovery(
            callers=Callers(source=self._relay, attestor=attestor, clock=clock),
            feed=feed,
            shelf=SecretShelf(trust_domain=trust_domain),
            registry=registry,
            expiries=self._expiries,
            clock=clock,
        )
        self._health = HealthServicer()
        self._on_refusal = on_refusal
        self._server: aio.Server | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to serve. Raises what `Relay.start` raises, with nothing left behind."""
        self._server = aio.server(
            interceptors=(ErrorBorder(on_refusal=self._on_refusal),),
            options=(
                ("grpc.max_concurrent_streams", _MAX_STREAMS_OF_A_CONNECTION),
                ("grpc.max_receive_message_length", _MAX_REQUEST_BYTES),
            ),
        )
        sds_pb2_grpc.add_SecretDiscoveryServiceServicer_to_server(self._service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (_SDS, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name), self._server
        )
        for name in ("", _SDS):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._server.add_insecure_port(self._relay.private_address)
        self._watching = asyncio.create_task(self._expiries.run(), name="expiries")
        try:
            await self._server.start()
            await self._relay.start()
        except BaseException:
            await self.close(grace=0)
            raise

    async def close(self, *, grace: float) -> None:
        """Stop serving; streams, which never end by themselves, are cut after `grace` seconds."""
        await self._health.enter_graceful_shutdown()
        if self._server is not None:
            await self._server.stop(grace)
        await self._relay.close()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
