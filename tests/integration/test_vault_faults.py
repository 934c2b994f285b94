"""Vault that is sealed, stopped, slow or cut off, and what is between: the session says so, and recovers by itself."""

from __future__ import annotations

import asyncio
import ssl
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from structlog.testing import capture_logs

from citadel.errors import Reason
from tests.openbao import OpenBao, new_openbao
from tests.strangers import WebCa
from tests.vault_sessions import Kept, kept, refused, token_in
from tests.wire import Wire

pytestmark = [pytest.mark.integration, pytest.mark.alone]

TIMEOUT: Final = 0.5  # seconds, as the settings of these tests say


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    bao = new_openbao(tmp_path_factory.mktemp("openbao"))
    bao.pki("pki")
    bao.policy("reads", {"pki/config/issuers": ["read"]})
    yield bao
    bao.stop()


@asynccontextmanager
async def wired(bao: OpenBao, login: dict[str, Any], **others: Any) -> AsyncIterator[tuple[Kept, Wire]]:
    """A session that is kept, and that reaches Vault over a wire of its own."""
    wire = Wire(bao.port)
    section = {"address": f"https://127.0.0.1:{await wire.start()}", "timeout": f"{TIMEOUT * 1000:.0f}ms"}
    try:
        async with kept(bao, login, run=True, **(section | others)) as one:
            yield one, wire
    finally:
        await wire.close()


async def goes_on(one: Kept) -> None:
    """In well under a minute after what was wrong is mended, with no more than a line about each."""
    await one.pass_by(12)
    await one.reads()
    assert one.session.worry() is None


async def goes_wrong(one: Kept, reason: Reason, words: str) -> None:
    """The first call meets it, the next ones know of it at once, and `run` asks again all the time."""
    error = await refused(one.reads())
    assert (error.reason, words in error.message) == (reason, True), error
    await one.until(lambda: one.session.trouble() is not None)
    before = one.session.acts["call", reason.value]
    begun = time.monotonic()
    for _ in range(50):
        assert (await refused(one.reads())).reason is reason
    assert time.monotonic() - begun < 0.2
    assert one.session.acts["call", reason.value] == before, "none of them asked Vault"


async def test_sealed(bao: OpenBao, tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with kept(bao, bao.approle("sealed", tmp_path, "reads"), run=True) as one:
            await one.reads()
            bao.seal()
            await one.pass_by(1)
            await goes_wrong(one, Reason.VAULT_UNAVAILABLE, "Vault does not serve now (503): Vault is sealed")
            await one.pass_by(300)
            bao.unseal()
            await goes_on(one)
            assert one.logins == 1
    levels = [log["log_level"] for log in logs]
    assert levels in [[*["warning"] * times, "info"] for times in (5, 6)], "once a minute"


async def test_stopped_and_started_again(bao: OpenBao, tmp_path: Path) -> None:
    async with kept(bao, bao.approle("stopped", tmp_path, "reads"), run=True) as one:
        await one.reads()
        bao.stop()
        await one.pass_by(1)
        await goes_wrong(one, Reason.VAULT_UNAVAILABLE, "Vault cannot be reached: Connection refused")
        bao.start()
        await one.pass_by(12)
        assert "sealed" in str(one.session.trouble())
        bao.unseal()
        await goes_on(one)
        assert one.logins == 1


async def test_away_when_the_session_begins(bao: OpenBao, tmp_path: Path) -> None:
    login = bao.approle("begins", tmp_path, "reads")
    bao.seal()
    async with kept(bao, login, run=True) as one:
        assert (await refused(one.reads())).reason is Reason.VAULT_UNAVAILABLE
        await one.pass_by(60)
        bao.unseal()
        await goes_on(one)
        bao.seal()
        await refused(one.reads())
        await one.until(lambda: one.session.trouble() is not None)
        assert 0 < one.session.wait <= 1, "this is a new outage"
        bao.unseal()


async def test_away_for_longer_than_the_token_lasts(bao: OpenBao, tmp_path: Path) -> None:
    async with kept(bao, bao.approle("longer", tmp_path, "reads", token_ttl="300s"), run=True) as one:
        await one.reads()
        bao.seal()
        await one.pass_by(400)
        assert (one.session.token_until, (await refused(one.reads())).reason) == (None, Reason.VAULT_UNAVAILABLE)
        bao.unseal()
        await goes_on(one)
        assert one.logins == 2


async def test_slow_and_cut_off(bao: OpenBao, tmp_path: Path) -> None:
    async with wired(bao, bao.approle("slow", tmp_path, "reads")) as (one, wire):
        await one.reads()
        wire.cut()
        await one.pass_by(1)
        begun = time.monotonic()
        await asyncio.gather(*(refused(one.reads()) for _ in range(20)))
        assert time.monotonic() - begun < TIMEOUT * 1.5, "also where there are more calls than threads"
        await goes_wrong_already(one)
        wire.mend()
        await goes_on(one)


async def goes_wrong_already(one: Kept) -> None:
    """Nor does anybody wait for the session, which asks again."""
    await one.until(lambda: one.session.trouble() is not None)
    await one.until_it_waits()
    await one.clock.advance(12)
    assert not one.clock.is_awaited
    begun = time.monotonic()
    assert (await refused(one.reads())).reason is Reason.VAULT_UNAVAILABLE
    assert time.monotonic() - begun < TIMEOUT / 3


async def test_trickling_is_no_answer_in_time(bao: OpenBao, tmp_path: Path) -> None:
    async with wired(bao, bao.approle("trickles", tmp_path, "reads")) as (one, wire):
        await one.reads()
        wire.trickle()
        for _ in range(2):  # more calls than go at a time
            begun = time.monotonic()
            errors = await asyncio.gather(*(refused(one.client.read("pki/config/issuers")) for _ in range(10)))
            assert {error.reason for error in errors} == {Reason.VAULT_UNAVAILABLE}
            assert time.monotonic() - begun < TIMEOUT * 1.5
        wire.mend()  # for what comes from now on: what trickles already goes on so
        await one.client.read("pki/config/issuers")


def threads_of_vault() -> int:
    return sum(thread.name == "vault" for thread in threading.enumerate())


_ENDLESS: Final = b"HTTP/1.1 200 OK\r\nx-long: " + b"x" * 60_000


async def test_whoever_sends_a_byte_now_and_then_holds_a_thread_and_nobody_who_waits(
    bao: OpenBao, tmp_path: Path
) -> None:
    """Without TLS, where no timeout of a socket would ever end it."""
    login, before = token_in(tmp_path, bao.root.token), threads_of_vault()
    async with stand_in(_ENDLESS, pause=0.01) as there, kept(bao, login, address=there.address, timeout="200ms") as one:
        error = await refused(one.reads())
        assert (error.reason, error.message) == (Reason.VAULT_UNAVAILABLE, "Vault did not answer within 0.2 s")
        assert threads_of_vault() == before + 1
        there.ends.set()
        await one.until(lambda: threads_of_vault() <= before)


_ASKS: Final = """
import asyncio, sys
from ca.vault.client import VaultClient
from ca.vault.settings import VaultSettings

login = {"token": {"token_file": "/none"}}
client = VaultClient(VaultSettings.model_validate({"address": sys.argv[1], "login": login, "timeout": "200ms"}))
asyncio.run(client.read("pki/config/issuers"))
"""


async def test_who_trickles_keeps_no_process_from_its_end() -> None:
    async with stand_in(_ENDLESS, pause=0.01) as there:
        command = [sys.executable, "-c", _ASKS, there.address]
        child = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        try:
            async with asyncio.timeout(10):
                _, said = await child.communicate()
        finally:
            if child.returncode is None:
                child.kill()
        assert b"Vault did not answer within 0.2 s" in said
        assert len(there.heard) == 1


async def test_a_slow_answer_alone_is_no_outage(bao: OpenBao, tmp_path: Path) -> None:
    async with wired(bao, bao.approle("busy", tmp_path, "reads")) as (one, wire):
        await one.reads()
        wire.cut()
        assert (await refused(one.reads())).reason is Reason.VAULT_UNAVAILABLE
        wire.mend()
        await one.reads()
        assert one.session.trouble() is None


async def test_another_authority_than_that_of_vaults_certificate(bao: OpenBao, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(WebCa().pem)
    login = token_in(tmp_path, bao.token("reads"))
    async with kept(bao, login, run=True, ca_file=str(ca_file)) as one:
        error = await refused(one.reads())
        assert error.reason is Reason.VAULT_UNTRUSTED
        assert "Vault's certificate does not verify: " in error.message
        ca_file.write_bytes(bao.ca_file.read_bytes())
        await one.pass_by(12)
        await one.reads()


async def test_another_certificate_is_taken_with_the_file_of_its_authority(bao: OpenBao, tmp_path: Path) -> None:
    async with kept(bao, bao.approle("renewed", tmp_path, "reads"), run=True) as one:
        await one.reads()
        bao.stop()
        bao.new_certificate()
        bao.start()
        bao.unseal()
        await one.pass_by(1)
        assert (await refused(one.reads())).reason is Reason.VAULT_UNTRUSTED
        await goes_on(one)
        assert one.logins == 1


async def test_another_host_than_that_of_vaults_certificate(bao: OpenBao, tmp_path: Path) -> None:
    login = token_in(tmp_path, bao.token("reads"))
    async with kept(bao, login, address=f"https://localhost:{bao.port}") as one:
        error = await refused(one.reads())
        assert error.reason is Reason.VAULT_UNTRUSTED
        assert "localhost" in error.message


async def test_an_answer_by_something_else(bao: OpenBao, tmp_path: Path) -> None:
    login = token_in(tmp_path, bao.root.token)
    hello = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
    async with stand_in(hello) as there, kept(bao, login, address=there.address) as one:
        error = await refused(one.reads())
        assert error.reason is Reason.VAULT_REFUSED
        assert "is not Vault" in error.message


async def test_tls_with_who_speaks_none(bao: OpenBao, tmp_path: Path) -> None:
    async with stand_in(b"HTTP/1.1 400 Bad Request\r\n\r\n") as there:
        address = there.address.replace("http:", "https:")
        async with kept(bao, token_in(tmp_path, bao.root.token), address=address) as one:
            assert (await refused(one.reads())).reason is Reason.VAULT_UNTRUSTED


@dataclass
class StandIn:
    """Something between here and Vault, and what it heard."""

    answer: bytes
    address: str = ""
    heard: list[str] = field(default_factory=list)
    pause: float | None = None  # seconds between two bytes, where they come one by one
    ends: asyncio.Event = field(default_factory=asyncio.Event)  # with all that it says

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard.append((await reader.read(65536)).decode(errors="replace").lower())
        with suppress(OSError):
            for part in [self.answer] if self.pause is None else map(bytes, zip(self.answer, strict=True)):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(self.pause or 0)
                if self.ends.is_set():
                    break
        writer.close()


@asynccontextmanager
async def stand_in(
    answer: bytes, *, tls: ssl.SSLContext | None = None, pause: float | None = None
) -> AsyncIterator[StandIn]:
    there = StandIn(answer, pause=pause)
    async with await asyncio.start_server(there.serve, "127.0.0.1", 0, ssl=tls) as server:
        port = server.sockets[0].getsockname()[1]
        there.address = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        yield there


def moved(status: str, to: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()


def tls_of_vault(bao: OpenBao) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(bao.folder / "tls.pem", bao.folder / "tls.key")
    return context


async def test_a_standby_node_sends_on_to_the_active_one(bao: OpenBao, tmp_path: Path) -> None:
    to = f"{bao.address}/v1/auth/token/lookup-self"
    login = token_in(tmp_path, bao.root.token)
    async with stand_in(moved("307 Temporary Redirect", to), tls=tls_of_vault(bao)) as standby:
        async with kept(bao, login, address=standby.address) as one:
            await one.session.log_in()
        assert f"x-vault-token: {bao.root.token}".lower() in standby.heard[0]


@pytest.mark.parametrize(
    ("status", "scheme"), [("307 Temporary Redirect", "http"), ("302 Found", "https"), ("301 Moved", "http")]
)
async def test_no_token_goes_to_another_scheme_or_after_any_other_redirect(
    bao: OpenBao, tmp_path: Path, status: str, scheme: str
) -> None:
    login = token_in(tmp_path, bao.root.token)
    async with stand_in(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}") as thief:
        to = f"{thief.address if scheme == 'http' else bao.address}/v1/auth/token/lookup-self"
        async with stand_in(moved(status, to), tls=tls_of_vault(bao)) as standby:
            async with kept(bao, login, address=standby.address) as one:
                error = await refused(one.reads())
            assert error.reason is Reason.VAULT_REFUSED
            assert "elsewhere" in error.message
            assert thief.heard == []


async def test_nothing_around_this_process_changes_what_is_said_and_to_whom(
    bao: OpenBao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".vault-token").write_text("from-home")
    (home / ".netrc").write_text("machine 127.0.0.1 login somebody password from-netrc\n")
    (home / ".netrc").chmod(0o600)
    around = {
        "HOME": str(home),
        "VAULT_TOKEN": "from-environment",
        "VAULT_ADDR": "http://127.0.0.1:1",
        "VAULT_NAMESPACE": "from-environment",
        "VAULT_CACERT": "/nowhere",
        "VAULT_CLIENT_CERT": "/nowhere",
        "VAULT_SKIP_VERIFY": "true",
        "REQUESTS_CA_BUNDLE": "/nowhere",
        "CURL_CA_BUNDLE": "/nowhere",
        **{f"{kind}_{end}": "http://127.0.0.1:1" for kind in ("http", "https", "all") for end in ("proxy",)},
        **{f"{kind}_PROXY": "http://127.0.0.1:1" for kind in ("HTTP", "HTTPS", "ALL")},
    }
    login = token_in(tmp_path, bao.token("reads"))
    for name, value in around.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with kept(bao, login) as one:
        await one.reads()
    login, sealed = token_in(tmp_path, "from-file"), b"HTTP/1.1 503 Sealed\r\ncontent-length: 0\r\n\r\n"
    async with stand_in(sealed) as there:
        async with kept(bao, login, address=there.address, namespace="mine") as one:
            await refused(one.reads())
        [heard] = there.heard
    assert "from-environment" not in heard
    assert "authorization" not in heard
    assert "x-vault-token: from-file\r\n" in heard
    assert "x-vault-namespace: mine\r\n" in heard
