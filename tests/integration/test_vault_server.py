"""A whole server and its log-in to Vault: what its start waits for, what it refuses, and what it says of itself."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from ca.settings import ServerSettings
from citadel._wire import rotation_pb2
from citadel.errors import Kind, Reason, Unavailable
from cli.citadel_cli import citadel_cli
from cli.output import EXIT_CODES
from cli.server_process import run_server
from cli.server_vault import vault_affairs
from tests.clock import FakeClock
from tests.integration.meshes import until
from tests.openbao import OpenBao, new_openbao
from tests.ports import free_port
from tests.servers import Server, connected, http_status, server_settings
from tests.vault_sessions import secret_in

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    bao = new_openbao(tmp_path_factory.mktemp("openbao"))
    bao.mount("transit", "transit")
    bao.write("transit/keys/citadel-seal", type="aes256-gcm96")
    bao.policy("seals", {f"transit/{each}/citadel-seal": ["update"] for each in ("decrypt", "datakey/plaintext")})
    yield bao
    bao.stop()


def sealed_settings(bao: OpenBao, folder: Path) -> ServerSettings:
    """A server whose keys are sealed by Vault, where it logs in by AppRole."""
    section = bao.section(folder / "token") | {"login": bao.approle(folder.name, folder, "seals")}
    return server_settings(folder, keys={"vault_seal": {}}, vault=section)


async def ready(settings: ServerSettings) -> tuple[int, str]:
    try:
        return await http_status(settings.listen.probes, "/ready")
    except OSError:
        return 0, ""


async def metric(server: Server, name: str) -> float:
    _, body = await http_status(server.settings.listen.probes, "/metrics")
    return float(next(line.rpartition(" ")[2] for line in body.splitlines() if line.startswith(f"{name} ")))


async def status_line(server: Server) -> str:
    command = ["--socket", str(server.settings.listen.admin_socket), "status"]
    result = await asyncio.to_thread(CliRunner().invoke, citadel_cli, command, prog_name="citadel-cli")
    return next(line for line in result.stdout.splitlines() if line.startswith("vault "))


async def test_a_start_waits_a_minute_for_vault_and_then_lets_others_try(bao: OpenBao, tmp_path: Path) -> None:
    settings, clock = sealed_settings(bao, tmp_path), FakeClock()
    assert settings.vault is not None
    nowhere = settings.vault.model_copy(update={"address": f"https://127.0.0.1:{free_port()}"})
    affairs, waits = vault_affairs(settings.model_copy(update={"vault": nowhere}), clock), list[str]()
    assert affairs is not None
    hearing = asyncio.create_task(affairs.until_heard(waits.append))
    async with asyncio.timeout(20):
        while not hearing.done():
            await asyncio.sleep(0.001)
            if clock.is_awaited:
                await clock.advance(1)
    with pytest.raises(Unavailable) as refused:
        await hearing
    await affairs.close()
    assert refused.value.reason is Reason.VAULT_UNAVAILABLE
    assert len(waits) > 5
    assert 60 <= clock.monotonic() < 75


async def test_a_start_to_which_vault_allows_too_little_says_so_and_tries_again(bao: OpenBao, tmp_path: Path) -> None:
    settings, stop = sealed_settings(bao, tmp_path), asyncio.Event()
    bao.root.write_data("sys/quotas/rate-limit/low", data={"path": "transit/", "rate": 1, "interval": "3600s"})
    running = asyncio.create_task(run_server(settings, stop=stop))

    async def pauses() -> bool:
        code, body = await ready(settings)
        return code == 503 and "starts again soon: Vault does not serve now (429)" in body

    await until("the start is given up for now", pauses, seconds=10)
    bao.root.delete("sys/quotas/rate-limit/low")
    server = await connected(settings, running)
    await server.close()
    stop.set()
    await running


async def test_a_start_waits_for_vault_and_can_be_stopped_meanwhile(bao: OpenBao, tmp_path: Path) -> None:
    settings, stop = sealed_settings(bao, tmp_path), asyncio.Event()
    await asyncio.to_thread(bao.seal)
    running = asyncio.create_task(run_server(settings, stop=stop))

    async def waits() -> bool:
        code, body = await ready(settings)
        return code == 503 and f"start waits: Vault at {bao.address}: Vault does not serve now (503)" in body

    await until("the start waits", waits, seconds=10)
    begun = time.monotonic()
    stop.set()
    await running
    assert time.monotonic() - begun < 10  # Vault stays sealed for longer
    await asyncio.to_thread(bao.unseal)


async def test_vault_is_seen_in_status_probes_and_metrics_and_comes_back(bao: OpenBao, tmp_path: Path) -> None:
    settings, stop = sealed_settings(bao, tmp_path), asyncio.Event()
    await asyncio.to_thread(bao.seal)
    running = asyncio.create_task(run_server(settings, stop=stop))
    await asyncio.sleep(0)
    await asyncio.to_thread(bao.unseal)
    server = await connected(settings, running)
    try:
        shown = (await server.status()).vault
        assert (shown.address, shown.login, shown.keys, shown.good) == (bao.address, "approle", "sealed", True)
        assert shown.HasField("token_until")
        assert await status_line(server) == f"vault            {bao.address} by approle, seals the keys"
        assert await metric(server, "citadel_vault_good") == 1
        assert await metric(server, 'citadel_vault_acts_total{act="login",outcome="ok"}') == 1

        await asyncio.to_thread(bao.seal)
        await server.rotations().StartRotation(rotation_pb2.StartRotationRequest(kind="issuer"))

        async def is_away() -> bool:
            return (await server.status()).vault.reason == "vault_unavailable"

        await until("it is seen", is_away, seconds=20)
        code, body = await ready(settings)
        assert (code, '"status":"degraded"' in body, "(503): Vault is sealed" in body) == (200, True, True)
        line = await status_line(server)
        assert "(503): Vault is sealed" in line
        assert "(vault_unavailable), for" in line
        assert await metric(server, "citadel_vault_good") == 0

        await asyncio.to_thread(bao.unseal)

        async def is_back() -> bool:
            return (await server.status()).vault.good

        await until("it is back", is_back, seconds=20)
        await server.close()
    finally:
        stop.set()
        await running
        await asyncio.to_thread(bao.unseal)


async def test_a_wrong_secret_refuses_the_start_and_says_which(bao: OpenBao, tmp_path: Path) -> None:
    settings = sealed_settings(bao, tmp_path)
    secret_in(tmp_path / f"{tmp_path.name}-secret-id", "wrong")
    with pytest.raises(Unavailable) as error:
        await run_server(settings, stop=asyncio.Event())
    assert error.value.reason is Reason.VAULT_LOGIN_REFUSED
    assert f"{tmp_path.name}-secret-id, at auth/{tmp_path.name}" in error.value.message


async def test_a_refused_start_says_what_to_do(bao: OpenBao, tmp_path: Path) -> None:
    settings = sealed_settings(bao, tmp_path)
    bao.write(f"auth/{tmp_path.name}/role/server", token_policies=["default"])
    document = settings.model_dump(mode="json", include={"data_dir", "keys", "vault"}, exclude_none=True)
    del document["vault"]["timeout"]  # in a form for others
    document["listen"] = {name: str(getattr(settings.listen, name)) for name in type(settings.listen).model_fields}
    document["trust_domain"] = settings.trust_domain.name
    path = tmp_path / "server.yaml"
    path.write_text(yaml.safe_dump(document))
    command = (sys.executable, "-P", "-m", "cli.entry", "server", "run", "--config", str(path))
    process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-2)
    said = (await process.communicate())[0].decode()
    assert process.returncode == EXIT_CODES[Kind.UNAVAILABLE], said
    denied = "does not allow `update` on `transit/datakey/plaintext/citadel-seal`, or nothing is mounted there"
    assert denied in said
    assert said.endswith(f"  try: `citadel-cli vault check -c {path}` says what does not fit\n")
