"""What the listeners do to connections, and how they count those they refuse."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from structlog.testing import capture_logs

from ca.api.gates import AnonymousGate
from ca.api.listeners import TlsListener, make_server
from ca.api.refusals import address_of
from ca.api.settings import ConnectionSettings
from citadel.config.types import HostPort
from citadel.errors import Reason, Unauthenticated
from citadel.in_flight import InFlight
from citadel.rpc import ErrorBorder
from citadel.tally import Tally
from tests.clock import FakeClock


def register(server: aio.Server) -> None:
    async def refuse(*_: Any) -> bytes:
        raise Unauthenticated(Reason.TOKEN_UNKNOWN, "there is no such join token")

    handlers = {"Ask": grpc.unary_unary_rpc_method_handler(refuse)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", handlers),))


async def ask(channel: aio.Channel) -> None:
    with pytest.raises(aio.AioRpcError) as refused:
        await channel.unary_unary("/test.Test/Ask")(b"")
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_connection_that_asks_for_nothing_is_ended(tmp_path: Path) -> None:
    server = make_server(
        border=ErrorBorder(),
        limits=ConnectionSettings(anonymous_idle=timedelta(milliseconds=50)),
        register=register,
        is_anonymous=True,
    )
    server.add_insecure_port(f"unix:{tmp_path}/s")
    await server.start()
    try:
        async with aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
            await ask(channel)
            assert channel.get_state() is grpc.ChannelConnectivity.READY
            await asyncio.wait_for(channel.wait_for_state_change(grpc.ChannelConnectivity.READY), 10)
    finally:
        await server.stop(None)


@pytest.mark.invariant(10)
@pytest.mark.parametrize("for_agents", [True, False])
async def test_refusals_that_repeat_are_summed_with_the_address_of_who_has_no_identity(for_agents: bool) -> None:
    tally = Tally(clock=FakeClock())
    listener = TlsListener(
        address=HostPort("127.0.0.1", 0),
        credentials=grpc.local_server_credentials(),
        anonymous=None if for_agents else address_of,
        gate=AnonymousGate(InFlight(most_of_one=10, what="calls"), proxies=InFlight(most_of_one=10, what="calls")),
        limits=ConnectionSettings(),
        tally=tally,
        register=register,
    )
    await listener.start()
    with capture_logs() as lines:
        async with aio.secure_channel(str(listener.address), grpc.local_channel_credentials()) as channel:
            for _ in range(3):
                await ask(channel)
        await listener.close(0)  # tells what is left
    assert [(line["by"], line["count"]) for line in lines] == [
        ("anonymous:ipv4:127.0.0.1", 1),
        ("anonymous:ipv4:127.0.0.1", 2),
    ]
    assert tally.refused == {Reason.TOKEN_UNKNOWN: 3}
