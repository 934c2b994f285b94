"""The server's three doors: TLS for those without an identity, mutual TLS for agents, and the local admin socket."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from ca.api.refusals import CallerBorder, identity_of
from ca.api.settings import ConnectionSettings
from ca.audit.model import Actor
from citadel.config.types import HostPort
from citadel.errors import FailedPrecondition, PermissionDenied, Reason
from citadel.gate import Gate, GateKeeper
from citadel.health import HealthBoard
from citadel.metrics import CallMeter
from citadel.peer import PeerCredentials
from citadel.relay import Relay
from citadel.rpc import ErrorBorder
from citadel.tally import Tally

_MOST_ADMINISTRATORS: Final = 64
_ADMIN_SOCKET_MODE: Final = 0o660
# An agent's largest message has half of it (`sds.link.sync`), a child that tells of a thousand clusters two thirds.
MOST_PARTS: Final = 30_000
_SYNC: Final = ("/citadel.v1.AgentApi/Sync",)  # bounded by `ca.api.sessions`

Register = Callable[[aio.Server], None]
ActorOf = Callable[[Any], Actor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What watches a listener: the meter of its calls, and what its health answers."""

    meter: CallMeter
    health: HealthBoard


def make_server(
    *,
    border: ErrorBorder,
    limits: ConnectionSettings,
    register: Register,
    services: tuple[str, ...] = (),
    is_anonymous: bool = False,
    gate: Gate | None = None,
    watch: Watch | None = None,
) -> aio.Server:
    """A gRPC server with the error border, health, and reflection of `services` where there are any.

    `gate` says whose requests are read. Without `watch` nothing is measured, and health says that it serves.

    Who is anonymous asks twice and is done: a connection that goes on without asking is only held open, and ended.
    """
    most_bytes = limits.anonymous_message_bytes if is_anonymous else limits.message_bytes
    server = aio.server(
        interceptors=[
            *([watch.meter] if watch else []),
            border,
            *([GateKeeper(gate, apart=_SYNC, most_parts=MOST_PARTS)] if gate else []),
        ],
        options=[
            ("grpc.max_receive_message_length", most_bytes),
            ("grpc.so_reuseport", 0),  # two servers on one port would share its callers at random
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_timeout_ms", 10_000),  # a half-open connection ends within half a minute
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.max_concurrent_streams", limits.calls),
            ("grpc.server_handshake_timeout_ms", _milliseconds(limits.handshake)),
            *([("grpc.max_connection_idle_ms", _milliseconds(limits.anonymous_idle))] if is_anonymous else []),
        ],
    )
    register(server)
    health_pb2_grpc.add_HealthServicer_to_server(watch.health.servicer if watch else HealthServicer(), server)
    if services:
        reflection.enable_server_reflection((*services, reflection.SERVICE_NAME), server)
    return server


class TlsListener:
    """A gRPC server on a TCP address."""

    def __init__(
        self,
        *,
        address: HostPort,
        credentials: grpc.ServerCredentials,
        anonymous: ActorOf | None = None,
        gate: Gate,
        limits: ConnectionSettings,
        tally: Tally,
        register: Register,
        watch: Watch | None = None,
    ) -> None:
        """`anonymous` says who a caller is where nobody shows a certificate; None where everybody does."""
        self._tally = tally
        self._server = make_server(
            border=CallerBorder(tally=tally, caller_of=anonymous or identity_of),
            limits=limits,
            register=register,
            is_anonymous=anonymous is not None,
            gate=gate,
            watch=watch,
        )
        try:
            port = self._server.add_secure_port(str(address), credentials)
        except RuntimeError as error:
            raise FailedPrecondition(
                Reason.CONFIG_INVALID,
                f"cannot listen on {address}",
                fix="another process may have it: change `listen` in the configuration, or stop that process",
            ) from error
        self.address = HostPort(address.host, port)

    async def start(self) -> None:
        """Serve."""
        await self._server.start()

    async def close(self, grace: float) -> None:
        """Let open calls end within `grace` seconds, then cut them."""
        await self._server.stop(grace)
        await self._tally.close()


class AdminListener:
    """The local admin socket: only root and the server's own user get through, by the kernel's word."""

    def __init__(
        self,
        *,
        path: Path,
        relay_dir: Path,
        tally: Tally,
        limits: ConnectionSettings,
        services: tuple[str, ...],
        register: Callable[[aio.Server, ActorOf], None],
        watch: Watch | None = None,
    ) -> None:
        """`register` adds `services` to the server; it is given what tells which user makes a call."""
        self._tally = tally
        self._relay = Relay(
            path,
            mode=_ADMIN_SOCKET_MODE,
            private_dir=relay_dir,
            admits=self._admits,
            max_connections=_MOST_ADMINISTRATORS,
        )
        self._server = make_server(
            border=CallerBorder(tally=tally, caller_of=self._actor_of),
            limits=limits,
            register=lambda server: register(server, self._actor_of),
            services=services,
            watch=watch,
        )
        self._server.add_insecure_port(self._relay.private_address)

    async def start(self) -> None:
        """Serve; the socket appears when calls can be answered."""
        await self._server.start()
        await self._relay.start()

    async def close(self, grace: float) -> None:
        """Let open calls end within `grace` seconds, then remove the socket."""
        await self._server.stop(grace)
        await self._relay.close()

    def _admits(self, peer: PeerCredentials) -> bool:
        if peer.uid in (0, os.geteuid()):
            return True
        refusal = PermissionDenied(Reason.CALLER_NOT_ALLOWED, "the admin socket is for root and the server's own user")
        self._tally.count_refused("admin socket", refusal, by=Actor.local(peer.uid))
        return False

    def _actor_of(self, context: Any) -> Actor:
        return Actor.local(self._relay.caller_of(context.peer()).credentials.uid)


def _milliseconds(span: timedelta) -> int:
    return int(span.total_seconds() * 1000)
