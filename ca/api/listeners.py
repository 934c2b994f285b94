"""The server's three doors: TLS for those without an identity, mutual TLS for agents, and the local admin socket."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from ca.audit.model import Actor
from citadel.config.types import HostPort
from citadel.errors import FailedPrecondition, Reason
from citadel.peer import PeerCredentials
from citadel.relay import Relay
from citadel.rpc import ErrorBorder, OnRefusal
from citadel.tally import Tally

_MEGABYTE: Final = 1024 * 1024
# The largest batch (500 requests) is under 1 MiB; a caller without an identity has nothing large to say.
_AGENT_MESSAGE: Final = 8 * _MEGABYTE
_ANONYMOUS_MESSAGE: Final = 256 * 1024
_MOST_ADMINISTRATORS: Final = 64
_ADMIN_SOCKET_MODE: Final = 0o660
# Who joins asks twice and is done; a connection that goes on without asking is only held open.
_ANONYMOUS_IDLE_MILLISECONDS: Final = 30_000

Register = Callable[[aio.Server], None]
ActorOf = Callable[[Any], Actor]


def make_server(
    *,
    on_refusal: OnRefusal,
    most_bytes: int,
    register: Register,
    services: tuple[str, ...] = (),
    most_idle_ms: int | None = None,
) -> aio.Server:
    """A gRPC server with the error border, health, and reflection of `services` where there are any.

    A connection without a call for `most_idle_ms` milliseconds is ended.
    """
    server = aio.server(
        interceptors=[ErrorBorder(on_refusal=on_refusal)],
        options=[
            ("grpc.max_receive_message_length", most_bytes),
            ("grpc.so_reuseport", 0),  # two servers on one port would share its callers at random
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_timeout_ms", 10_000),  # a half-open connection ends within half a minute
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            *([] if most_idle_ms is None else [("grpc.max_connection_idle_ms", most_idle_ms)]),
        ],
    )
    register(server)
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(), server)
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
        for_agents: bool,
        tally: Tally,
        register: Register,
    ) -> None:
        self._tally = tally
        self._server = make_server(
            on_refusal=tally.count_refused if for_agents else tally.count_anonymous_refused,
            most_bytes=_AGENT_MESSAGE if for_agents else _ANONYMOUS_MESSAGE,
            register=register,
            most_idle_ms=None if for_agents else _ANONYMOUS_IDLE_MILLISECONDS,
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
        tally: Tally,
        services: tuple[str, ...],
        register: Callable[[aio.Server, ActorOf], None],
    ) -> None:
        """`register` adds `services` to the server; it is given what tells which user makes a call."""
        self._relay = Relay(
            path, mode=_ADMIN_SOCKET_MODE, admits=_is_administrator, max_connections=_MOST_ADMINISTRATORS
        )
        self._server = make_server(
            on_refusal=tally.count_refused,
            most_bytes=_AGENT_MESSAGE,
            register=lambda server: register(server, self._actor_of),
            services=services,
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

    def _actor_of(self, context: Any) -> Actor:
        return Actor.local(self._relay.caller_of(context.peer()).credentials.uid)


def _is_administrator(peer: PeerCredentials) -> bool:
    return peer.uid in (0, os.geteuid())
