"""Vault that goes away and comes back under a server whose root is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ca.settings import ServerSettings
from citadel._wire import rotation_pb2
from cli.server_process import run_server
from tests.integration.meshes import until
from tests.openbao import OpenBao, running_openbao
from tests.servers import Server, connected, http_status, running_server
from tests.vault_pki import has_ended, is_told, issuer_of, settings_under

pytestmark = pytest.mark.integration

_ISSUER = rotation_pb2.StartRotationRequest(kind="issuer")


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
