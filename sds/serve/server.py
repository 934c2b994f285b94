"""The workloads' socket: the relay, and behind it the gRPC server with everything that callers may ask."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from socket import socket as Socket  # noqa: N812 - `socket` is a path here
from typing import Any, Final

from envoy.service.auth.v3 import external_auth_pb2_grpc
from envoy.service.secret.v3 import sds_pb2, sds_pb2_grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

from citadel._wire.workload_pb2_grpc import add_SpiffeWorkloadAPIServicer_to_server
from citadel.clock import Clock
from citadel.drain import StreamDrain
from citadel.gate import GateKeeper
from citadel.interceptor import WrappingInterceptor
from citadel.relay import Relay
from citadel.rpc import ErrorBorder, OnRefusal
from citadel.selector import Selector
from citadel.services import Services
from citadel.spiffe import TrustDomain
from sds.authz import service as authorization
from sds.authz.counts import Decisions
from sds.authz.service import Authorization, PolicySource
from sds.holdings import HoldingsFeed
from sds.serve.admission import UserGate
from sds.serve.callers import CallerNews, Callers, PartyOf, WorkloadAttestor
from sds.serve.credentials import Credentials, NoCredentials
from sds.serve.expiries import Expiries
from sds.serve.registry import StreamRegistry
from sds.serve.secrets import SecretShelf
from sds.serve.service import SecretDiscovery
from sds.settings import LimitSettings, SecretNameSettings
from sds.tokens.keeper import TokenKeeper
from sds.workload import header
from sds.workload.entitlement import Entitlement
from sds.workload.service import WorkloadApi
from sds.workload.snapshot import SnapshotShelf
from sds.workload.tokens import JwtCalls

# Everybody may connect: what a caller gets is decided by who the kernel says it is.
_SOCKET_MODE: Final = 0o666
_DEFAULT_NAMES: Final = SecretNameSettings()
_DEFAULT_LIMITS: Final = LimitSettings()

_SDS: Final = sds_pb2.DESCRIPTOR.services_by_name["SecretDiscoveryService"].full_name


class WorkloadServer:
    """Serves the holdings in `feed` to the workloads and proxies that connect to `socket`.

    `relay_dir` is for sockets that nobody else may reach; `listener` listens on `socket` already, where there is one.
    `on_refusal` is told the method and the error of every refusal; `has_heard` says whether the server has told its
    entries since this agent began.
    """

    def __init__(  # noqa: PLR0913 - where the serving side is wired: each part is given, none is made in secret
        self,
        *,
        socket: Path,
        relay_dir: Path,
        listener: Socket | None = None,
        trust_domain: TrustDomain,
        feed: HoldingsFeed,
        attestor: WorkloadAttestor,
        registry: StreamRegistry,
        tokens: TokenKeeper,
        clock: Clock,
        policies: PolicySource,
        decisions: Decisions,
        has_heard: Callable[[], bool] = lambda: True,
        news: CallerNews | None = None,
        party_of: PartyOf | None = None,
        names: SecretNameSettings = _DEFAULT_NAMES,
        limits: LimitSettings = _DEFAULT_LIMITS,
        on_refusal: OnRefusal | None = None,
        interceptors: Sequence[WrappingInterceptor] = (),
        credentials: Credentials | None = None,
    ) -> None:
        self._limits = limits
        self._relay = Relay(
            socket,
            mode=_SOCKET_MODE,
            private_dir=relay_dir,
            listener=listener,
            max_connections=limits.max_connections,
            max_connections_per_uid=limits.max_connections_per_uid,
            party_of=party_of,
        )
        self._gate = UserGate(source=self._relay, most_per_uid=limits.max_streams_per_uid, most=limits.max_streams)
        self._expiries = Expiries(clock=clock)
        callers = Callers(source=self._relay, attestor=attestor, clock=clock, news=news)
        self._shelf = SecretShelf(trust_domain=trust_domain, names=names)
        self._registry = registry
        self._feed = feed
        self._clock = clock
        self._service = SecretDiscovery(
            callers=callers,
            feed=feed,
            shelf=self._shelf,
            registry=registry,
            expiries=self._expiries,
            clock=clock,
            max_names=limits.max_names,
            credentials=credentials or NoCredentials(),
        )
        entitlement = Entitlement(
            callers=callers,
            feed=feed,
            shelf=SnapshotShelf(trust_domain=trust_domain),
            has_heard=has_heard,
            clock=clock,
        )
        self._workload_api = WorkloadApi(
            entitlement=entitlement,
            jwt=JwtCalls(entitlement=entitlement, keeper=tokens, clock=clock),
            feed=feed,
            registry=registry,
            expiries=self._expiries,
            clock=clock,
        )
        self._authorization = Authorization(
            callers=callers, policies=policies, feed=feed, decisions=decisions, clock=clock
        )
        self._health = HealthServicer()
        self._on_refusal = on_refusal
        self._interceptors = interceptors
        self._drain = StreamDrain()
        self._server: aio.Server | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to serve. Raises what `Relay.start` raises, with nothing left behind."""
        border = ErrorBorder(on_refusal=self._on_refusal)
        gate = GateKeeper(self._gate, patience=self._limits.request_timeout.total_seconds())
        services: Any = Services(
            *self._interceptors, self._drain, border, gate, guard=header.SecurityHeader(border).refusal_of
        )
        sds_pb2_grpc.add_SecretDiscoveryServiceServicer_to_server(self._service, services)
        add_SpiffeWorkloadAPIServicer_to_server(self._workload_api, services)
        external_auth_pb2_grpc.add_AuthorizationServicer_to_server(self._authorization, services)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, services)
        names = (_SDS, header.SERVICE_NAME, authorization.SERVICE)
        health = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        add_reflection: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server  # ships no types
        add_reflection(ReflectionServicer((*names, health)), services)
        for name in ("", *names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._server = aio.server(options=_options(self._limits))
        self._server.add_generic_rpc_handlers((services,))
        self._server.add_insecure_port(self._relay.private_address)
        self._watching = asyncio.create_task(self._expiries.run(), name="expiries")
        try:
            await self._server.start()
            await self._relay.start()
        except BaseException:
            await self.close(grace=0)
            raise

    def names_for(self, selectors: frozenset[Selector]) -> Sequence[str]:
        """The SDS names that a caller with these selectors would be served now."""
        return sorted(self._shelf.available(self._feed.current, selectors, self._clock.now()).resources)

    async def close(self, *, grace: float) -> None:
        """Stop serving: streams, which never end by themselves, are ended; the rest is cut after `grace` seconds.

        What was told of streams is forgotten with them.
        """
        await self._health.enter_graceful_shutdown()
        self._drain.end_all()
        if self._server is not None:
            await self._server.stop(grace)
        await self._relay.close()
        self._registry.close()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)


def _options(limits: LimitSettings) -> Sequence[tuple[str, int]]:
    return (
        ("grpc.max_concurrent_streams", limits.max_streams_per_connection),
        ("grpc.max_receive_message_length", limits.max_request_bytes),
        ("grpc.server_handshake_timeout_ms", int(limits.handshake_timeout.total_seconds() * 1000)),
        # Pings that measure the line to a peer on the same machine would double what goes through the relay.
        ("grpc.http2.bdp_probe", 0),
    )
