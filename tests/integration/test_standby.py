"""Two servers on one PostgreSQL: one serves, the other takes its place, and never do both."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from grpc import aio

from ca.settings import ServerSettings
from citadel.svid import X509Svid
from cli.server_process import run_server
from tests.csrs import csr
from tests.integration.meshes import until
from tests.postgres import Postgres
from tests.servers import Member, Server, connected, http_status, reason_of, server_settings, sign
from tests.wire import Wire

pytestmark = [pytest.mark.integration, pytest.mark.invariant(12)]

LEASE_SECONDS = 3
CONFIG = """
trust_domain: a.test
data_dir: {0.data_dir}
store_url: {0.store_url}
keys: {{kek_file: {0.keys.kek_file}}}
listen:
  bootstrap: {0.listen.bootstrap}
  agents: {0.listen.agents}
  probes: {0.listen.probes}
  admin_socket: {0.listen.admin_socket}
limits: {{joins_per_second: 10000}}
"""


@dataclass
class Replica:
    """One server process, seen from outside."""

    settings: ServerSettings
    child: asyncio.subprocess.Process
    log: Path

    async def readiness(self) -> tuple[int, str]:
        try:
            return await http_status(self.settings.listen.probes, "/ready")
        except OSError:
            return 0, ""

    async def is_ready(self) -> bool:
        return (await self.readiness())[0] == 200

    async def stands_by(self) -> bool:
        status, body = await self.readiness()
        return status == 503 and "standby of" in body

    async def has_its_doors_shut(self) -> bool:
        return not await opens(self.settings.listen.agents.port) and not await opens(
            self.settings.listen.bootstrap.port
        )

    async def connected(self) -> Server:
        return await connected(self.settings)

    async def stop(self) -> None:
        if self.child.returncode is None:
            self.child.send_signal(signal.SIGCONT)
            self.child.terminate()
            async with asyncio.timeout(10):
                await self.child.wait()


def both_settings(tmp_path: Path, url: str) -> tuple[ServerSettings, ServerSettings]:
    """Two servers with folders of their own, one store and one key-encryption key."""
    folders = tmp_path / "1", tmp_path / "2"
    for folder in folders:
        folder.mkdir()
    first = server_settings(folders[0], store_url=url)
    second = server_settings(folders[1], store_url=url, keys={"kek_file": first.keys.kek_file})
    return first, second


@asynccontextmanager
async def replica(settings: ServerSettings) -> AsyncIterator[Replica]:
    folder = settings.data_dir.parent
    config, log = folder / "server.yaml", folder / "log"
    config.write_text(CONFIG.format(settings))
    with log.open("wb") as output:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli.entry", "server", "run", "--config", str(config)), stderr=output
        )
    running = Replica(settings, child, log)
    try:
        yield running
    except BaseException:
        print(log.read_text())  # noqa: T201 - pytest shows it
        raise
    finally:
        await running.stop()


@asynccontextmanager
async def pair(tmp_path: Path, postgres: Postgres) -> AsyncIterator[tuple[Replica, Replica]]:
    """A server that serves, and its standby."""
    one, two = both_settings(tmp_path, postgres.create_database())
    async with replica(one) as first:
        await until("the first serves", first.is_ready, seconds=20)
        async with replica(two) as second:
            await until("the second stands by", second.stands_by, seconds=20)
            yield first, second


async def opens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def seconds_until(holds: Callable[[], Awaitable[bool]]) -> float:
    begun = time.monotonic()
    await until("the other one serves", holds, seconds=20)
    return time.monotonic() - begun


def ledger(postgres: Postgres, settings: ServerSettings) -> set[str]:
    return set(postgres.query(urlsplit(settings.store_url or "").path.lstrip("/"), "SELECT serial FROM ledger"))


@dataclass
class Issuing:
    """Calls that ask a server for certificates, several in flight, until it answers no more."""

    answered: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)

    async def ask(self, server: Server, agent: Member, entry_id: str) -> None:
        agents, request = server.agents(agent), csr()
        while True:
            try:
                results = await sign(agents, *[(entry_id, request)] * 5)
            except aio.AioRpcError as error:
                self.refused.add(reason_of(error) or error.code().name)
                return
            self.answered |= {X509Svid.from_der(result.svid.chain).serial for result in results}


async def test_a_standby_lives_but_lets_nobody_in_and_stops_when_told(tmp_path: Path, postgres: Postgres) -> None:
    async with pair(tmp_path, postgres) as (first, second):
        assert (await http_status(second.settings.listen.probes, "/live"))[0] == 200
        status, body = await second.readiness()
        assert (status, json.loads(body)["status"]) == (503, "not_ready")
        assert str(first.settings.listen.agents) in body, "it says whose standby it is"
        assert (await http_status(second.settings.listen.probes, "/ready?standbyok=true"))[0] == 200
        assert "standby of" in second.log.read_text()
        assert await second.has_its_doors_shut()
        assert not second.settings.listen.admin_socket.exists()
        second.child.terminate()
        async with asyncio.timeout(3):
            assert await second.child.wait() == 0
        assert await first.is_ready()


@pytest.mark.invariant(2, 11)
async def test_killed_while_issuing_its_standby_serves_within_5_s_and_nothing_answered_is_lost(
    tmp_path: Path, postgres: Postgres
) -> None:
    async with pair(tmp_path, postgres) as (first, second):
        server = await first.connected()
        agent = await server.join("node-1")
        entry, token = await server.entry("/web", agent), await server.token("node-2")
        issuing = Issuing()
        asking = [asyncio.create_task(issuing.ask(server, agent, entry.id)) for _ in range(8)]
        while len(issuing.answered) < 200:
            await asyncio.sleep(0)
        first.child.kill()
        assert await seconds_until(second.is_ready) < 5
        await asyncio.gather(*asking)
        await server.close()

        assert issuing.answered <= ledger(postgres, second.settings)
        heir = await second.connected()
        assert heir.published == server.published, "no agent sees another bundle"
        (result,) = await sign(heir.agents(agent), (entry.id, csr()))
        svid = X509Svid.from_der(result.svid.chain)
        assert str(svid.spiffe_id) == "spiffe://a.test/web"
        assert svid.serial in ledger(postgres, second.settings)
        assert token  # made by the first, known to the second through the store
        await heir.close()


async def test_a_server_that_stops_hands_over_without_waiting_for_the_lease_to_end(
    tmp_path: Path, postgres: Postgres
) -> None:
    async with pair(tmp_path, postgres) as (first, second):
        await first.stop()
        assert await seconds_until(second.is_ready) < LEASE_SECONDS


@pytest.mark.invariant(2)
async def test_a_server_that_was_stopped_for_longer_than_its_lease_issues_nothing_when_it_comes_back(
    tmp_path: Path, postgres: Postgres
) -> None:
    async with pair(tmp_path, postgres) as (first, second):
        server = await first.connected()
        agent = await server.join("node-1")
        entry = await server.entry("/web", agent)
        issuing = Issuing()
        asking = [asyncio.create_task(issuing.ask(server, agent, entry.id)) for _ in range(8)]
        while len(issuing.answered) < 100:
            await asyncio.sleep(0)
        first.child.send_signal(signal.SIGSTOP)
        assert await seconds_until(second.is_ready) < 2 * LEASE_SECONDS
        before = ledger(postgres, first.settings)
        assert issuing.answered <= before

        first.child.send_signal(signal.SIGCONT)  # with calls in flight, which it now goes on with
        await until("the first has shut its doors", first.has_its_doors_shut, seconds=2)
        await asyncio.wait_for(asyncio.gather(*asking), 5)
        assert issuing.refused <= {"lease_lost", "store_unavailable", "UNAVAILABLE", "CANCELLED"}
        assert ledger(postgres, first.settings) == before, "nobody asked the second for anything"
        assert issuing.answered <= ledger(postgres, first.settings)
        await until("the first stands by", first.stands_by, seconds=5)
        await server.close()

        await second.stop()
        await until("the first serves again", first.is_ready, seconds=5)
        server = await first.connected()
        (result,) = await sign(server.agents(agent), (entry.id, csr()))
        assert result.svid.spiffe_id == "spiffe://a.test/web"
        await server.close()


async def test_a_restart_does_not_wait_for_its_own_lease(tmp_path: Path, postgres: Postgres) -> None:
    settings, _ = both_settings(tmp_path, postgres.create_database())
    async with replica(settings) as first:
        await until("it serves", first.is_ready, seconds=20)
        first.child.kill()
        await first.child.wait()
    async with replica(settings) as again:
        await until("it serves again", again.is_ready, seconds=20)
        assert "standby of" not in again.log.read_text()


@pytest.mark.invariant(2)
async def test_a_server_that_is_cut_off_from_the_database_shuts_its_doors(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.create_database()
    wire = Wire(urlsplit(url).port or 0)
    port = await wire.start()
    cut_off, other = both_settings(tmp_path, url)
    cut_off = cut_off.model_copy(update={"store_url": url.replace(f":{urlsplit(url).port}", f":{port}")})
    async with replica(cut_off) as first:
        await until("the first serves", first.is_ready, seconds=20)
        server = await first.connected()
        agent = await server.join("node-1")
        entry = await server.entry("/web", agent)
        async with replica(other) as second:
            await until("the second stands by", second.stands_by, seconds=20)
            wire.cut()
            issuing = asyncio.create_task(Issuing().ask(server, agent, entry.id))
            assert await seconds_until(second.is_ready) < 2 * LEASE_SECONDS
            await until("the first has shut its doors", first.has_its_doors_shut, seconds=3)
            await asyncio.wait_for(issuing, 1)
            wire.mend()
            await until("the first stands by", first.stands_by, seconds=20)
            assert await second.is_ready()
        await server.close()
    await wire.close()


async def test_a_server_whose_database_is_away_waits_for_it_and_never_says_its_password(
    tmp_path: Path, postgres: Postgres, capfd: pytest.CaptureFixture[str]
) -> None:
    url = postgres.url("not_made_yet").replace("citadel@", "citadel:s3cret@")
    settings, stop = server_settings(tmp_path, store_url=url), asyncio.Event()
    running = asyncio.create_task(run_server(settings, stop=stop))

    async def says_what_it_waits_for() -> bool:
        with suppress(OSError):
            status, body = await http_status(settings.listen.probes, "/ready")
            return status == 503 and "waits for the store" in body
        return False

    await until("it waits for the store", says_what_it_waits_for, seconds=10)
    stop.set()
    await asyncio.wait_for(running, 3)

    stop.clear()
    running = asyncio.create_task(run_server(settings, stop=stop))
    await until("it waits for the store", says_what_it_waits_for, seconds=10)
    postgres.query("postgres", "CREATE DATABASE not_made_yet")
    server = None
    while server is None:
        with suppress(aio.AioRpcError):
            server = await connected(settings, running)
    await server.join("node-1")
    await server.close()
    stop.set()
    await running
    output = "".join(capfd.readouterr())
    assert "does not exist" in output
    assert "s3cret" not in output


async def test_a_standby_without_the_key_encryption_key_says_so(tmp_path: Path, postgres: Postgres) -> None:
    one, two = both_settings(tmp_path, postgres.create_database())
    async with replica(one) as first:
        await until("the first serves", first.is_ready, seconds=20)
    other = server_settings(tmp_path / "2", store_url=one.store_url)  # with a key-encryption key of its own
    assert other.keys.kek_file != two.keys.kek_file
    async with replica(other) as second:
        async with asyncio.timeout(20):
            assert await second.child.wait() != 0
        assert "key_unsealable" in second.log.read_text()
    async with replica(one) as first:  # and it took the lease from nobody for good
        await until("the first serves", first.is_ready, seconds=20)
