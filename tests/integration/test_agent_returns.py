"""A real agent and a real server that lose sight of each other for too long, and servers that take turns."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ca.settings import ServerSettings
from citadel._wire import admin_pb2
from citadel.config.types import HostPort
from cli.agent_process import run_agent
from sds.link.identity import AgentIdentity, IdentityFile
from sds.settings import AgentSettings
from tests import certificates
from tests.ports import free_port
from tests.servers import Server, running_server, server_settings

pytestmark = pytest.mark.integration

SHORT = {"agent_lifetime": "2s", "default_lifetime": "2s", "backdate": "1s"}
BACKOFF = {"initial": "20ms", "maximum": "500ms"}


async def until(what: str, holds: Callable[[], Awaitable[bool]], *, seconds: float = 15) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not await holds():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"within {seconds} s it did not come true that {what}") from None


def has_said(logs: Sequence[Mapping[str, Any]], reason: str) -> Callable[[], Awaitable[bool]]:
    async def said() -> bool:
        return any(log.get("reason") == reason for log in logs)

    return said


class Node:
    """One machine with an agent."""

    def __init__(self, folder: Path, **join: Any) -> None:
        folder.mkdir(mode=0o700)
        self.written = {
            "trust_domain": "a.test",
            "data_dir": str(folder / "data"),
            "socket": str(folder / "public" / "agent.sock"),
            "admin_socket": str(folder / "admin.sock"),
            "reconnect": BACKOFF,
            "probes": f"127.0.0.1:{free_port()}",
            "join": {"string_file": str(folder / "join")} | join,
        }
        self.settings = AgentSettings.model_validate(self.written)

    def also(self, **settings: Any) -> None:
        self.settings = self.settings.model_copy(update=settings)

    async def invite(self, server: Server) -> None:
        made = await server.admin().CreateToken(admin_pb2.CreateTokenRequest(agent_name="node-1"))
        assert self.settings.join.string_file is not None
        self.settings.join.string_file.touch(mode=0o600)
        self.settings.join.string_file.write_text(made.join_string)

    @property
    def identity(self) -> AgentIdentity:
        found = IdentityFile(self.settings.data_dir).load(self.settings.trust_domain)
        assert found is not None
        return found

    async def has_expired(self) -> bool:
        return self.identity.svid.not_after < datetime.now(UTC)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        task = asyncio.create_task(run_agent(self.settings, stop=stop))
        try:
            yield
        finally:
            stop.set()
            async with asyncio.timeout(5):
                await task


@pytest.fixture
def settings(tmp_path: Path) -> ServerSettings:
    return server_settings(tmp_path, svids=SHORT)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "node")


def is_connected(server: Server) -> Callable[[], Awaitable[bool]]:
    async def connected() -> bool:
        return [agent.connected for agent in (await server.status()).agents] == [True]

    return connected


async def test_an_agent_comes_back_by_itself_when_its_server_was_away_for_too_long(
    settings: ServerSettings, node: Node
) -> None:
    async with running_server(settings) as server:
        await node.invite(server)
        running = node.running()
        await running.__aenter__()
        await until("the agent is connected", is_connected(server))
    with structlog.testing.capture_logs() as logs:
        await until("its svid has ended", node.has_expired)
        await asyncio.sleep(1)
    said = [log["reason"] for log in logs if log["event"].startswith("cannot renew")]
    assert len(said) <= 2  # once for each kind of trouble, not for each try
    async with running_server(settings) as server:
        await until("the agent is back", is_connected(server))
        assert not await node.has_expired()
        await running.__aexit__(None, None, None)


async def test_an_agent_that_was_off_for_too_long_comes_back_at_its_start(settings: ServerSettings, node: Node) -> None:
    async with running_server(settings) as server:
        await node.invite(server)
        async with node.running():
            await until("the agent is connected", is_connected(server))
        await until("its svid has ended", node.has_expired)
        old = node.identity
        async with node.running():
            await until("the agent is back", is_connected(server))
        assert node.identity.svid.spiffe_id == old.svid.spiffe_id
        assert node.identity.key.public_key() != old.key.public_key()


async def test_after_the_grace_the_agent_says_once_what_to_do(tmp_path: Path, node: Node) -> None:
    settings = server_settings(tmp_path, svids=SHORT, joining={"rejoin_grace": "0s"})
    async with running_server(settings) as server:
        await node.invite(server)
        async with node.running():
            await until("the agent is connected", is_connected(server))
        await until("its svid has ended", node.has_expired)
        with structlog.testing.capture_logs() as logs:
            async with node.running():
                await until("it says so", has_said(logs, "rejoin_refused"))
                await asyncio.sleep(1)  # in which it tries on, every half second
    (said,) = [log for log in logs if log["event"].startswith("cannot renew") and log["reason"] == "rejoin_refused"]
    assert said["error"].endswith("join it with a new token")


async def test_a_server_with_other_roots_is_not_believed_and_the_agent_says_what_to_do(
    tmp_path: Path, settings: ServerSettings, node: Node
) -> None:
    async with running_server(settings) as server:
        await node.invite(server)
        async with node.running():
            await until("the agent is connected", is_connected(server))
        await until("its svid has ended", node.has_expired)
    (tmp_path / "elsewhere").mkdir()
    another = server_settings(tmp_path / "elsewhere", svids=SHORT).model_copy(update={"listen": settings.listen})
    before = node.identity.svid.serial
    async with running_server(another):
        with structlog.testing.capture_logs() as logs:
            async with node.running():
                await until("it says so", has_said(logs, "bundle_mismatch"))
                await asyncio.sleep(1)  # in which it tries on, every half second
    (said,) = [log for log in logs if log["event"].startswith("cannot renew") and log["reason"] == "bundle_mismatch"]
    assert "join again with a new join string" in said["error"]
    assert node.identity.svid.serial == before


async def test_a_machine_with_a_certificate_needs_no_token_and_comes_back_with_it_when_it_was_evicted(
    tmp_path: Path,
) -> None:
    now = datetime.now(UTC)
    dates = {"not_before": now - timedelta(hours=1), "not_after": now + timedelta(days=1)}
    machines = certificates.root("machines", uri=None, **dates)
    own = certificates.leaf(machines, names=None, **dates)
    ca_file, chain, key, bundle = (tmp_path / name for name in ("machines.pem", "node.pem", "node.key", "bundle.json"))
    ca_file.write_bytes(machines.pem)
    chain.write_bytes(own.pem)
    key.touch(mode=0o600)
    key.write_bytes(own.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    settings = server_settings(tmp_path, svids=SHORT, joining={"x509pop": {"ca_file": ca_file}, "rejoin_grace": "0s"})
    node = Node(
        tmp_path / "node",
        string_file=None,
        servers=[str(settings.listen.bootstrap)],
        bundle_file=bundle,
        x509pop={"certificate_file": chain, "key_file": key},
    )
    async with running_server(settings) as server:
        bundle.write_bytes(server.published)
        async with node.running():
            await until("the agent is connected", is_connected(server))
        await until("its svid has ended", node.has_expired)
        async with node.running():  # the grace is over, so only the certificate helps
            await until("the agent is back", is_connected(server))


def elsewhere(settings: ServerSettings) -> ServerSettings:
    """The same server on other ports."""
    ports = {name: HostPort("127.0.0.1", free_port()) for name in ("bootstrap", "agents", "probes")}
    return settings.model_copy(update={"listen": settings.listen.model_copy(update=ports)})


@pytest.mark.parametrize("first", [0, 1])
async def test_an_agent_is_on_the_other_server_within_two_seconds_of_its_opening(
    tmp_path: Path, node: Node, first: int
) -> None:
    one = server_settings(tmp_path)
    two = elsewhere(one)
    servers = (one.listen.agents, two.listen.agents) if first == 0 else (two.listen.agents, one.listen.agents)
    node.also(servers=servers)
    async with running_server(one) as server:
        await node.invite(server)
        running = node.running()
        await running.__aenter__()
        await until("the agent is connected", is_connected(server))
    for active in (two, one):
        await asyncio.sleep(3)  # neither is there
        async with running_server(active) as server:
            opened = time.monotonic()
            await until("the agent is on it", is_connected(server), seconds=5)
            assert time.monotonic() - opened < 2
            if active is one:
                await running.__aexit__(None, None, None)


async def test_joining_and_coming_back_go_round_the_servers_too(settings: ServerSettings, node: Node) -> None:
    nobody = HostPort("127.0.0.1", free_port())
    node.also(join=node.settings.join.model_copy(update={"servers": (nobody, settings.listen.bootstrap)}))
    async with running_server(settings) as server:
        await node.invite(server)
        async with node.running():
            await until("the agent is connected", is_connected(server))
        await until("its svid has ended", node.has_expired)
        async with node.running():
            await until("the agent is back", is_connected(server))


# An agent whose process is killed at one of its writes of the identity: before it, or right after it.
DOOMED = """
import asyncio, os, signal, sys
from pathlib import Path
from citadel.config.loader import load
from cli.agent_process import run_agent
from sds.link.identity import IdentityFile
from sds.settings import AgentSettings

settings, when, at = sys.argv[1], sys.argv[2], int(sys.argv[3])
save, saves = IdentityFile.save, 0

def doomed(self, identity):
    global saves
    saves += 1
    if saves == at and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    save(self, identity)
    if saves == at:
        os.kill(os.getpid(), signal.SIGKILL)

IdentityFile.save = doomed
asyncio.run(run_agent(load(Path(settings), AgentSettings), stop=asyncio.Event()))
"""
STEPS = {
    "the new key is nowhere yet": ("before", 1),
    "the new key is on disk and nothing was sent": ("after", 1),
    "the server has answered and nothing was saved": ("before", 2),
    "the new identity is saved and was never used": ("after", 2),
}


@pytest.mark.invariant(12)
@pytest.mark.parametrize("step", STEPS)
async def test_an_agent_that_was_killed_while_it_came_back_comes_back(
    tmp_path: Path, settings: ServerSettings, node: Node, step: str
) -> None:
    when, at = STEPS[step]
    file = tmp_path / "agent.yaml"
    file.write_text(yaml.safe_dump(node.written))
    async with running_server(settings) as server:
        await node.invite(server)
        async with node.running():
            await until("the agent is connected", is_connected(server))
        await until("its svid has ended", node.has_expired)
        doomed = await asyncio.create_subprocess_exec(sys.executable, "-c", DOOMED, str(file), when, str(at))
        assert await asyncio.wait_for(doomed.wait(), 20) == -signal.SIGKILL
        async with node.running():
            await until("the agent is back", is_connected(server))
