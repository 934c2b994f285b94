"""`citadel-cli backup` and `restore` with real servers: beside one that runs, without one, and killed half-way."""

from __future__ import annotations

import asyncio
import base64
import signal
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import yaml
from grpc import StatusCode
from structlog.testing import capture_logs

from ca.settings import ServerSettings
from citadel._wire import bootstrap_pb2
from citadel.config.files import write_private
from tests.clock import FakeClock
from tests.csrs import csr
from tests.postgres import Postgres
from tests.servers import Server, refusal, running_server, server_settings, sign, synced
from tests.unit.cli.fake_admin import Program

pytestmark = pytest.mark.integration


def config_of(settings: ServerSettings, folder: Path) -> str:
    """The settings as a file."""
    path = folder / "server.yaml"
    listen = {name: str(getattr(settings.listen, name)) for name in type(settings.listen).model_fields}
    document = {
        "trust_domain": settings.trust_domain.name,
        "data_dir": str(settings.data_dir),
        "store_url": settings.store_url,
        "keys": {"kek_file": str(settings.keys.kek_file)},
        "listen": listen,
    }
    path.write_text(yaml.safe_dump(document))
    return str(path)


async def citadel_cli(*arguments: str) -> tuple[int, str]:
    """The real program; returns its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "cli.citadel_cli",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


async def backed_up(server: Server, path: Path) -> Path:
    program = Program(server.settings.listen.admin_socket, FakeClock())
    result = await program("backup", str(path))
    assert result.exit_code == 0, result.stderr
    return path


@pytest.mark.parametrize("to_postgresql", [False, True], ids=["sqlite", "postgresql"])
async def test_a_server_comes_back_from_a_backup_that_was_made_while_it_ran(
    tmp_path: Path, to_postgresql: bool, postgres: Postgres
) -> None:
    settings = server_settings(tmp_path)
    async with running_server(settings) as server:
        agent = await server.join("node-1")
        before = await server.entry("/before", agent)
        unused = await server.token("node-9", seconds=600)
        path = await backed_up(server, tmp_path / "backup")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        late = await server.join("late")
        after = await server.entry("/after", agent)
        await sign(server.agents(agent), (after.id, csr()))
        old = await server.status()
        roots = server.bundle.x509_digest()

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kek").write_bytes((tmp_path / "kek").read_bytes())
    (elsewhere / "kek").chmod(0o600)
    store = {"store_url": postgres.create_database()} if to_postgresql else {}
    again = server_settings(elsewhere, **store)
    code, said = await citadel_cli("restore", str(path), "--config", config_of(again, elsewhere))
    assert code == 0, said
    assert "are not in the ledger" in said
    async with _started_without_an_error(again) as server:
        assert server.bundle.x509_digest() == roots
        new = await server.status()
        assert new.bundle_sequence > old.bundle_sequence
        assert new.revision > old.revision
        [gap] = new.ledger_gaps
        assert gap.begin.ToDatetime() < gap.end.ToDatetime()
        async with synced(server, agent) as stream:
            assert (await stream.next()).snapshot
            assert set(stream.entries) == {before.id}
        (result,) = await sign(server.agents(agent), (before.id, csr()))
        assert result.svid.spiffe_id == before.spiffe_id
        assert await refusal(synced_once(server, late)) == (StatusCode.PERMISSION_DENIED, "agent_unknown")
        join = bootstrap_pb2.JoinRequest(token=unused, csr=csr())
        assert await refusal(server.bootstrap().Join(join)) == (StatusCode.UNAUTHENTICATED, "token_expired")


@asynccontextmanager
async def _started_without_an_error(settings: ServerSettings) -> AsyncIterator[Server]:
    async with AsyncExitStack() as stack:
        with capture_logs() as logged:
            server = await stack.enter_async_context(running_server(settings))
        assert [each for each in logged if each["log_level"] == "error"] == []
        yield server


async def synced_once(server: Server, member: object) -> None:
    async with synced(server, member) as stream:  # type: ignore[arg-type]
        await stream.call.read()


async def test_a_backup_is_written_once_and_never_half(server: Server, tmp_path: Path) -> None:
    program = Program(server.settings.listen.admin_socket, FakeClock())
    path = await backed_up(server, tmp_path / "backup")
    first = path.read_bytes()
    refused = await program("backup", str(path))
    assert (refused.exit_code, refused.stdout) == (5, "")
    assert path.read_bytes() == first
    assert (await program("backup", str(path), "--force")).exit_code == 0
    assert path.read_bytes() != first
    nowhere = await program("backup", str(tmp_path / "no" / "such" / "folder"))
    assert nowhere.exit_code == 7
    assert [p.name for p in tmp_path.iterdir() if "unfinished" in p.name] == []


async def test_without_a_server_settings_are_needed_and_beside_one_refused(tmp_path: Path) -> None:
    settings = server_settings(tmp_path)
    config = config_of(settings, tmp_path)
    async with running_server(settings) as server:
        await server.join("node-1")
        online = await backed_up(server, tmp_path / "online")
        for command in (("backup", str(tmp_path / "x")), ("restore", str(online), "--replace", "--yes")):
            code, said = await citadel_cli(*command, "--config", config)
            assert code == 8, said
            assert "(data_dir_in_use)" in said
    code, said = await citadel_cli("backup", str(tmp_path / "offline"), "--config", config)
    assert code == 0, said
    code, said = await citadel_cli("restore", str(tmp_path / "offline"), "--config", config)
    assert (code, "(restore_refused)" in said) == (8, True), said
    code, said = await citadel_cli("restore", str(tmp_path / "offline"), "--config", config, "--replace", "--yes")
    assert code == 0, said
    async with running_server(settings) as server:
        assert [agent.spiffe_id for agent in (await server.status()).agents] == ["spiffe://a.test/citadel/agent/node-1"]


@pytest.mark.parametrize(
    ("has_key", "reason"), [(True, "key_unsealable"), (False, "file_unsafe")], ids=["another key", "no key"]
)
async def test_without_its_key_encryption_key_a_backup_is_worth_nothing(
    tmp_path: Path, has_key: bool, reason: str
) -> None:
    settings = server_settings(tmp_path)
    async with running_server(settings) as server:
        path = await backed_up(server, tmp_path / "backup")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    other = server_settings(elsewhere)
    if not has_key:
        (elsewhere / "kek").unlink()
    code, said = await citadel_cli("restore", str(path), "--config", config_of(other, elsewhere))
    assert (code != 0, f"({reason})" in said) == (True, True), said
    assert not (elsewhere / "data" / "citadel.db").exists()


@pytest.mark.invariant(12)
async def test_a_restore_that_is_killed_leaves_the_old_state_or_the_new(tmp_path: Path) -> None:
    write_private(tmp_path / "kek", base64.b64encode(b"k" * 32))  # that of `killed_restore`
    settings = server_settings(tmp_path)
    async with running_server(settings) as server:
        agent = await server.join("node-1")
        kept = await server.entry("/before", agent)
        path = await backed_up(server, tmp_path / "backup")
        later = await server.entry("/later", agent)
    store = (settings.database_url, settings.data_dir / "keys")
    for where, left in (("before the commit", [kept.id, later.id]), ("after the commit", [kept.id])):
        killed = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.unit.ca.killed_restore", path, *store, where
        )
        assert await killed.wait() == -signal.SIGKILL
        async with running_server(settings) as server:
            async with synced(server, agent) as stream:
                await stream.next()
                assert sorted(stream.entries) == sorted(left)
            (result,) = await sign(server.agents(agent), (kept.id, csr()))
            assert result.svid.spiffe_id == kept.spiffe_id
