"""A store that is full, locked, read-only or away: issuing is refused, nothing is half-written, and it mends itself."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import grpc
import pytest
from grpc import aio

from citadel.config.types import HostPort
from citadel.svid import X509Svid
from tests.csrs import csr
from tests.integration.meshes import live_mesh, until
from tests.integration.test_standby import replica
from tests.postgres import Postgres, running_postgres
from tests.servers import Member, Server, connected, http_status, reason_of, running_server, server_settings, sign

pytestmark = [pytest.mark.integration, pytest.mark.invariant(2, 12)]

REFUSED = (grpc.StatusCode.UNAVAILABLE, "store_unavailable")
# Longer than a server may keep a caller waiting for its store: two waits for a lock, one behind the other.
BOUND_SECONDS = 12


async def issue(server: Server, agent: Member, entry_id: str) -> str:
    """A new certificate's serial."""
    (result,) = await sign(server.agents(agent), (entry_id, csr()))
    return X509Svid.from_der(result.svid.chain).serial


async def refused_issuing(server: Server, agent: Member, entry_id: str) -> tuple[grpc.StatusCode, str]:
    begun = time.monotonic()
    with pytest.raises(aio.AioRpcError) as refused:
        await issue(server, agent, entry_id)
    assert time.monotonic() - begun < BOUND_SECONDS
    return refused.value.code(), reason_of(refused.value)


async def store_check(server: Server) -> tuple[int, str, str]:
    """What `/ready` says: code, status, and the words about the store."""
    code, body = await http_status(server.settings.listen.probes, "/ready")
    said = json.loads(body)
    return code, said["status"], said["checks"]["store"]


async def recovered(server: Server, agent: Member, entry_id: str) -> str:
    """Wait until it issues again; nobody does anything for it."""
    found, reasons = list[str](), set[str]()

    async def issues() -> bool:
        try:
            found.append(await issue(server, agent, entry_id))
        except aio.AioRpcError as error:
            reasons.add(reason_of(error))
            return False
        return True

    await until("it issues again", issues, seconds=15)
    assert reasons <= {"store_unavailable"}
    assert (await store_check(server))[2] == "takes what is written"
    return found[0]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program that writes to the file and does not come to an end."""
    with closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


async def test_sqlite_locked_for_longer_than_it_is_waited_for(tmp_path: Path) -> None:
    async with running_server(server_settings(tmp_path)) as server:
        agent = await server.join("node-1")
        entry = await server.entry("/web", agent)
        before = await issue(server, agent, entry.id)
        recorded = set(server.ledger.serials())
        with locked(server.ledger.path):
            assert await refused_issuing(server, agent, entry.id) == REFUSED
            code, status, said = await store_check(server)
            assert (code, status) == (200, "degraded"), "it still serves what it has"
            assert "locked" in said
            assert len((await server.status()).agents) == 1, "what needs no store is answered"
            assert set(server.ledger.serials()) == recorded
        after = await recovered(server, agent, entry.id)
        assert {before, after} <= set(server.ledger.serials())


async def test_sqlite_on_a_full_disk(tmp_path: Path) -> None:
    settings = server_settings(tmp_path)
    async with replica(
        settings.model_copy(update={"store_url": f"sqlite+aiosqlite:///{tmp_path / 'store.db'}"})
    ) as one:
        await until("it serves", one.is_ready, seconds=20)
        server = await connected(one.settings)
        agent = await server.join("node-1")
        entry = await server.entry("/web", agent)
        before = await issue(server, agent, entry.id)
        # The process may not write to any file from here on, which SQLite is told as a disk that is full.
        limits = resource.prlimit(one.child.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        assert await refused_issuing(server, agent, entry.id) == REFUSED
        code, status, said = await store_check(server)
        assert (code, status) == (200, "degraded")
        assert "disk" in said
        resource.prlimit(one.child.pid, resource.RLIMIT_FSIZE, limits)
        after = await recovered(server, agent, entry.id)
        with closing(sqlite3.connect(tmp_path / "store.db")) as database:
            assert {before, after} <= {serial for (serial,) in database.execute("SELECT serial FROM ledger")}
            assert list(database.execute("PRAGMA integrity_check")) == [("ok",)]
        await server.close()


@asynccontextmanager
async def on_postgresql(tmp_path: Path, postgres: Postgres) -> AsyncIterator[tuple[Server, Member, str]]:
    """A server on a database of its own, an agent, and the id of an entry."""
    async with running_server(server_settings(tmp_path, store_url=postgres.create_database())) as server:
        agent = await server.join("node-1")
        yield server, agent, (await server.entry("/web", agent)).id


def ledger(server: Server, postgres: Postgres) -> set[str]:
    return set(postgres.query(_name(server), "SELECT serial FROM ledger"))


def _name(server: Server) -> str:
    return server.settings.database_url.rpartition("/")[2]


async def test_postgresql_that_becomes_read_only(tmp_path: Path, postgres: Postgres) -> None:
    async with on_postgresql(tmp_path, postgres) as (server, agent, entry_id):
        before = await issue(server, agent, entry_id)

        def make(read_only: str) -> None:
            name = _name(server)
            postgres.query("postgres", f"ALTER DATABASE {name} SET default_transaction_read_only = {read_only}")
            # A session keeps the setting that it began with.
            postgres.query(
                name, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'citadel'"
            )

        make("on")

        async def is_degraded() -> bool:
            return "read-only" in (await store_check(server))[2]

        await until("it notices without being asked", is_degraded, seconds=5)
        await asyncio.sleep(4)  # longer than the lease, which nobody else can take now
        assert await refused_issuing(server, agent, entry_id) == REFUSED
        assert (await store_check(server))[0] == 200
        make("off")
        after = await recovered(server, agent, entry_id)
        assert {before, after} <= ledger(server, postgres)


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "crashed"])
async def test_postgresql_that_is_restarted_under_load(tmp_path: Path, kill: bool) -> None:
    with running_postgres() as postgres:
        async with on_postgresql(tmp_path, postgres) as (server, agent, entry_id):
            answered, refused = set[str](), set[tuple[grpc.StatusCode, str]]()

            async def ask() -> None:
                while True:
                    try:
                        answered.add(await issue(server, agent, entry_id))
                    except aio.AioRpcError as error:
                        refused.add((error.code(), reason_of(error)))
                        await asyncio.sleep(0.05)

            asking = [asyncio.create_task(ask()) for _ in range(4)]
            await until("it issues", _more_than(answered, 50), seconds=10)
            await asyncio.to_thread(postgres.stop, kill=kill)
            await until("it refuses", _more_than(refused, 0), seconds=5)
            assert (await store_check(server))[:2] == (200, "degraded")
            await asyncio.to_thread(postgres.start)
            await until("it issues again", _more_than(answered, len(answered) + 50), seconds=15)
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            assert refused == {REFUSED}
            assert answered <= ledger(server, postgres), "nothing that was answered is lost"


def _more_than(found: set[str] | set[tuple[grpc.StatusCode, str]], number: int):
    async def holds() -> bool:
        return len(found) > number

    return holds


async def test_postgresql_that_is_away_for_longer_than_the_lease(tmp_path: Path) -> None:
    """The server shuts its doors, as it cannot know whether another one serves; then it begins anew by itself."""
    with running_postgres() as postgres:
        async with on_postgresql(tmp_path, postgres) as (server, agent, entry_id):
            before = await issue(server, agent, entry_id)
            postgres.stop(kill=True)

            async def stands_by() -> bool:
                code, body = await _readiness(server)
                return code == 503 and "waits for the store" in body

            await until("it waits for its store", stands_by, seconds=10)
            postgres.start()

            async def serves() -> bool:
                return (await _readiness(server))[0] == 200

            await until("it serves again", serves, seconds=10)
            after = await recovered(server, agent, entry_id)
            assert {before, after} <= ledger(server, postgres)


async def _readiness(server: Server) -> tuple[int, str]:
    try:
        return await http_status(server.settings.listen.probes, "/ready")
    except OSError:
        return 0, ""


async def test_a_start_on_a_locked_store_waits_and_is_stopped_when_told(tmp_path: Path) -> None:
    settings = server_settings(tmp_path)
    async with running_server(settings):
        pass
    with locked(settings.data_dir / "citadel.db"):
        async with replica(settings.model_copy(update={"store_url": settings.database_url})) as one:

            async def waits() -> bool:
                return "waits for the store" in (await one.readiness())[1]

            await until("it waits for its store", waits, seconds=20)
            begun = time.monotonic()
            await one.stop()
            assert time.monotonic() - begun < 15  # one wait for the store, of five seconds; it stays locked


@pytest.mark.invariant(5)
async def test_proxies_notice_nothing_while_the_store_is_locked() -> None:
    async with live_mesh(leaf_seconds=24, as_root=os.geteuid() == 0) as mesh:
        sidecar = mesh.plan.reviews
        first = await mesh.serial_of(sidecar)
        probes = HostPort("127.0.0.1", mesh.plan.server_probes_port)

        async def is_degraded() -> bool:
            return "locked" in (await http_status(probes, "/ready"))[1]

        async def has_another_certificate() -> bool:
            return await mesh.serial_of(sidecar) != first

        async with mesh.under_load() as tally:
            with locked(mesh.plan.folder / "server" / "data" / "citadel.db"):
                await until("the server is degraded", is_degraded, seconds=15)
            await until("the certificate is renewed", has_another_certificate, seconds=30)
        assert tally.done > 100
        assert not tally.failures
