"""Vault that goes away and comes back under a server whose root is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from ca.settings import ServerSettings
from citadel._wire import rotation_pb2
from citadel.wire import to_duration
from cli.server_process import run_server
from tests.integration.meshes import until
from tests.openbao import OpenBao, running_openbao
from tests.servers import Server, connected, http_status, running_server
from tests.vault_pki import (
    default_of,
    has_come_to,
    has_ended,
    is_good,
    is_told,
    issuer_of,
    last_rotation,
    new_root,
    server_under,
    settings_under,
    trusted,
    usage_of,
)

pytestmark = pytest.mark.integration

_ISSUER = rotation_pb2.StartRotationRequest(kind="issuer")
_EMERGENCY = rotation_pb2.StartRotationRequest(kind="root", emergency=True, deadline=to_duration(timedelta(seconds=3)))


async def test_a_server_waits_for_vault_once_and_goes_on_without_it_afterwards(tmp_path: Path) -> None:
    async with running_openbao(tmp_path / "bao") as bao:
        settings = settings_under(bao, bao.pki("pki"), tmp_path)
        await asyncio.to_thread(bao.stop)
        async with _started_before_vault(settings, bao) as server:
            first = issuer_of(await server.join("node-1"))
            await asyncio.to_thread(bao.stop)
            await until("it is known that Vault is away", is_told(server, "vault_unavailable"), seconds=15)
            status, said = await http_status(settings.listen.probes, "/ready")
            assert (status, "nothing is issued from" in said) == (200, True)
            assert issuer_of(await server.join("node-2")) == first
            keys = _keys(settings)
            await server.rotations().StartRotation(_ISSUER)
        async with running_server(settings) as server:  # a restart makes no outage
            assert issuer_of(await server.join("node-3")) == first
            await until("it is told again", is_told(server, "vault_unavailable"), seconds=5)
            await asyncio.to_thread(bao.start)
            assert _keys(settings) == keys  # none for each try
            await asyncio.to_thread(bao.unseal)
            await until("the rotation has ended", has_ended(server, "issuer"), seconds=40)
            assert (await server.status()).upstream.good
            assert issuer_of(await server.join("node-4")) != first


async def test_what_leaked_goes_at_the_end_of_an_emergency_whether_vault_is_there_or_not(tmp_path: Path) -> None:
    async with running_openbao(tmp_path / "bao") as bao:
        mount = bao.pki("pki")
        new_root(bao, mount, "spare")
        async with server_under(bao, mount, tmp_path, alone=True, rotate_root=True) as server:
            await server.join("node-1")  # is waited for until the deadline
            await server.rotations().StartRotation(_EMERGENCY)
            await until("the new root signs", has_come_to(server, "renew", "drain"), seconds=10)
            assert "CN=Root first" in await trusted(server)
            await asyncio.to_thread(bao.seal)

            async def is_gone() -> bool:
                return "CN=Root first" not in await trusted(server)

            await until("what leaked is gone", is_gone, seconds=10)
            assert "CN=Root spare" in await trusted(server)
            await until("it is known that Vault is away", is_told(server, "vault_unavailable"), seconds=5)
            await asyncio.to_thread(bao.unseal)
            await until("the rotation has ended", has_ended(server, "root"), seconds=20)
            await until("all is well", is_good(server), seconds=10)
            assert usage_of(bao, mount, "first") == {"read-only", "crl-signing"}
            assert default_of(bao, mount) == f"citadel-{(await last_rotation(server)).new_authority}"
            assert len(await trusted(server)) == 2


@asynccontextmanager
async def _started_before_vault(settings: ServerSettings, bao: OpenBao) -> AsyncIterator[Server]:
    """A server that was started while Vault was away, which comes back as soon as it is seen to wait."""
    stop = asyncio.Event()
    process = asyncio.create_task(run_server(settings, stop=stop))
    try:

        async def waits() -> bool:
            try:
                status, said = await http_status(settings.listen.probes, "/ready")
            except OSError:
                return False
            return status == 503 and "start waits: Vault cannot be reached" in said

        await until("the start waits", waits, seconds=10)
        await asyncio.to_thread(_back, bao)
        server = await connected(settings, process)
        yield server
        await server.close()
    finally:
        stop.set()
        await process


def _back(bao: OpenBao) -> None:
    bao.start()
    bao.unseal()


def _keys(settings: ServerSettings) -> set[str]:
    return {each.name for each in (settings.data_dir / "keys").iterdir()}
