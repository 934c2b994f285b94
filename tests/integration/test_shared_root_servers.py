"""A real server under a root over several trust domains, and its agent, while the issuing authorities come and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from grpc import aio

from ca.authority.offline import AuthorityKeyKind, OfflineRoot, new_authority_key
from ca.settings import ServerSettings
from citadel._wire import bootstrap_pb2
from citadel._wire import rotation_pb2 as pb
from citadel.spiffe import TrustDomain
from cli.agent_process import run_agent
from sds.settings import AgentSettings
from tests.agents import running_agent
from tests.certificates import Signed
from tests.folders import contents, put
from tests.servers import Server, running_server, server_settings

pytestmark = pytest.mark.integration


class Owner:
    """Who keeps the root, and what lies in the folder of the cluster of a.test."""

    def __init__(self, folder: Path) -> None:
        now = datetime.now(UTC)
        self._folder = folder
        self._root = OfflineRoot.make(
            trust_domain=None, kind=AuthorityKeyKind.EC_P256, now=now, lifetime=timedelta(days=365)
        )
        self.signed: list[bytes] = []

    def exchange(self) -> None:
        """Another authority, in the place of what was there."""
        key = new_authority_key(AuthorityKeyKind.EC_P256)
        made = self._root.sign(
            cluster="a",
            trust_domain=TrustDomain("a.test"),
            public_key=key.public_key(),
            now=datetime.now(UTC),
            lifetime=timedelta(days=30),
        )
        self.signed.append(made.certificate.public_bytes(Encoding.DER))
        put(self._folder, contents(Signed(made.certificate, key), Signed(self._root.certificate, self._root.key)))

    async def rotated(self, server: Server, *, without_waiting: bool = False) -> None:
        """Exchange it, and wait until nothing is left of the one before."""
        self.exchange()

        async def is_alone() -> bool:
            if without_waiting:
                await skip_all(server)
            shown = await server.bootstrap().GetBundle(bootstrap_pb2.GetBundleRequest())
            return list(shown.issuers) == self.signed[-1:]

        await until("the new authority signs, and the old one is gone", is_alone)


async def skip_all(server: Server) -> None:
    """Have the rotation that runs, if one does, go on without whom it waits for."""
    with suppress(aio.AioRpcError):
        for holder in (await server.rotations().GetRotation(pb.GetRotationRequest())).holders:
            await server.rotations().SkipHolder(pb.SkipHolderRequest(name=holder.name, why="it is away"))


async def until(what: str, holds: Callable[[], Awaitable[bool]]) -> None:
    try:
        async with asyncio.timeout(20):
            while not await holds():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"it did not come true that {what}") from None


async def is_heard(server: Server) -> None:
    async def connected() -> bool:
        return [agent.connected for agent in (await server.status()).agents] == [True]

    await until("the agent is connected", connected)


@asynccontextmanager
async def running(settings: AgentSettings) -> AsyncIterator[None]:
    """The agent that has joined, again."""
    stop = asyncio.Event()
    process = asyncio.create_task(run_agent(settings, stop=stop))
    try:
        yield
    finally:
        stop.set()
        await process


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    made = Owner(tmp_path / "cacerts")
    made.exchange()
    return made


@pytest.fixture
def settings(tmp_path: Path, owner: Owner) -> ServerSettings:
    assert owner.signed
    return server_settings(
        tmp_path,
        upstream={"files": {"folder": tmp_path / "cacerts", "poll": "1s"}},
        rotation={"margin": "500ms", "window": "0s"},
    )


async def test_an_agent_finds_its_server_whatever_became_of_its_authorities_meanwhile(
    tmp_path: Path, owner: Owner, settings: ServerSettings
) -> None:
    async with running_server(settings) as server:
        assert not server.bundle.names_its_domain()
        async with running_agent(server, tmp_path / "node") as agent:
            await owner.rotated(server)
        # While the agent is away, and more than once.
        await owner.rotated(server, without_waiting=True)
        await owner.rotated(server, without_waiting=True)
        async with running(agent.settings):
            await is_heard(server)


async def test_an_agent_is_heard_again_when_its_server_comes_back(
    tmp_path: Path, owner: Owner, settings: ServerSettings
) -> None:
    async with running_server(settings) as server, running_agent(server, tmp_path / "node") as agent:
        await owner.rotated(server)
    async with running(agent.settings):
        async with running_server(settings) as server:
            await is_heard(server)
            await owner.rotated(server)
        async with running_server(settings) as server:
            await is_heard(server)
