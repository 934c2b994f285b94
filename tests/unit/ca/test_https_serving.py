"""HTTPS for strangers: files that are replaced, and callers who would hold the server up."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from ca.https.files import FileCertificate
from ca.https.serving import TlsHttp
from citadel.config.files import write_private
from citadel.config.types import HostPort
from citadel.probes import Health
from tests.certificates import Signed, rsa_key
from tests.clock import FakeClock
from tests.strangers import WebCa, pem_of, put

PATIENCE = 0.3
Spoil = Callable[[Path, Signed], None]


@dataclass
class Site:
    """A listener whose certificate lies in `folder`."""

    folder: Path
    ca: WebCa
    clock: FakeClock
    listener: TlsHttp

    @property
    def port(self) -> int:
        return self.listener.address.port

    async def get(self) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, verify=self.ca.trust()) as client:
            return await client.get(f"https://localhost:{self.port}/")

    async def shown(self) -> int:
        """The serial of the certificate that a caller is shown now."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.ca.trust(), server_hostname="localhost"
        )
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        await reader.read()
        return x509.load_der_x509_certificate(der).serial_number

    async def until(self, serial: int) -> None:
        """Let time pass until callers are shown this certificate."""
        async with asyncio.timeout(10):
            while await self.shown() != serial:
                await self.clock.advance(2)

    async def until_it_says(self, text: str) -> None:
        """Let time pass until `/ready` says so."""
        async with asyncio.timeout(10):
            while text not in self.listener.check().text:
                await self.clock.advance(2)
                await asyncio.sleep(0.01)  # the files are read in a thread


@asynccontextmanager
async def served(folder: Path, *, most: int, patience: float) -> AsyncIterator[Site]:
    async def hello(_: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    ca, clock = WebCa(), FakeClock(datetime.now(UTC))
    certificate_file, key_file = put(folder, ca.certificate())
    certificate = FileCertificate("oidc", certificate_file=certificate_file, key_file=key_file, clock=clock)
    app = Starlette(routes=[Route("/", hello)])
    listener = TlsHttp(app, HostPort("127.0.0.1", 0), certificate=certificate, most=most, patience=patience)
    await listener.start()
    yield Site(folder, ca, clock, listener)
    await listener.close()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with served(tmp_path, most=256, patience=PATIENCE) as site:
        yield site


async def test_it_answers_without_a_banner(site: Site) -> None:
    answer = await site.get()
    assert (answer.status_code, answer.text) == (200, "hello")
    assert "server" not in answer.headers
    assert site.listener.check().health is Health.GOOD


async def test_tls_1_1_and_plain_text_are_not_spoken(site: Site) -> None:
    context = site.listener._certificate.context
    assert context is not None
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    reader, writer = await connected(site, in_tls=False)
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"HTTP" not in await reader.read()
    writer.close()
    assert (await site.get()).text == "hello"


async def test_a_new_certificate_is_shown_without_a_restart_also_one_of_another_kind(site: Site) -> None:
    for new in (site.ca.certificate(), site.ca.certificate(key=rsa_key()), site.ca.certificate()):
        put(site.folder, new)
        await site.until(new.certificate.serial_number)
        assert site.listener.check().health is Health.GOOD


def _other_key(folder: Path, _: Signed) -> None:
    write_private(folder / "web-key.pem", pem_of(rsa_key()))


def _readable_by_all(folder: Path, _: Signed) -> None:
    (folder / "web-key.pem").chmod(0o644)


def _gone(folder: Path, _: Signed) -> None:
    (folder / "web.pem").unlink()


def _no_pem(folder: Path, _: Signed) -> None:
    (folder / "web.pem").write_bytes(b"hello")


def _with_a_passphrase(folder: Path, good: Signed) -> None:
    locked = BestAvailableEncryption(b"secret")
    write_private(folder / "web-key.pem", good.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))


def _ended(folder: Path, _: Signed) -> None:
    end = datetime.now(UTC) - timedelta(seconds=1)
    put(folder, WebCa().certificate(not_before=end - timedelta(hours=1), not_after=end))


def _of_a_version(number: int) -> Spoil:
    """A certificate that says that it is of another X.509 version than 3, which is written as 2."""

    def spoil(folder: Path, good: Signed) -> None:
        der = good.certificate.public_bytes(Encoding.DER)
        other = der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a0030201") + bytes([number - 1]), 1)
        assert other != der
        (folder / "web.pem").write_text(ssl.DER_cert_to_PEM_cert(other))

    return spoil


def _a_pipe(folder: Path, _: Signed) -> None:
    (folder / "web.pem").unlink()
    os.mkfifo(folder / "web.pem")


def _a_folder(folder: Path, _: Signed) -> None:
    (folder / "web.pem").unlink()
    (folder / "web.pem").mkdir()


BAD = [
    (_other_key, "do not go together"),
    (_readable_by_all, "has mode 0644"),
    (_gone, "cannot be opened"),
    (_a_pipe, "is not a regular file"),
    (_a_folder, "cannot be opened"),
    (_no_pem, "are no PEM"),
    (_of_a_version(2), "InvalidVersion"),
    (_of_a_version(10), "InvalidVersion"),
    (_with_a_passphrase, "do not go together"),
    (_ended, "the certificate is good from"),
]


@pytest.mark.parametrize(("spoil", "problem"), BAD)
async def test_a_bad_pair_leaves_the_last_good_one_and_is_told(site: Site, spoil: Spoil, problem: str) -> None:
    good = site.ca.certificate()
    put(site.folder, good)
    await site.until(good.certificate.serial_number)
    spoil(site.folder, good)
    await site.until_it_says(problem)
    assert site.listener.check().health is Health.DEGRADED
    assert await site.shown() == good.certificate.serial_number
    better = site.ca.certificate()
    if (site.folder / "web.pem").is_dir():
        (site.folder / "web.pem").rmdir()
    put(site.folder, better)
    await site.until(better.certificate.serial_number)
    assert site.listener.check().health is Health.GOOD


@pytest.mark.parametrize(("spoil", "problem"), BAD)
async def test_a_bad_pair_does_not_keep_the_server_from_starting(tmp_path: Path, spoil: Spoil, problem: str) -> None:
    ca = WebCa()
    good = ca.certificate()
    certificate_file, key_file = put(tmp_path, good)
    spoil(tmp_path, good)
    clock = FakeClock(datetime.now(UTC))
    certificate = FileCertificate("oidc", certificate_file=certificate_file, key_file=key_file, clock=clock)
    async with asyncio.timeout(10):
        await certificate.refresh()
    assert certificate.context is None
    assert problem in certificate.check().text


async def test_without_a_certificate_nothing_waits_for_one(tmp_path: Path) -> None:
    clock, ca = FakeClock(datetime.now(UTC)), WebCa()
    certificate = FileCertificate(
        "oidc", certificate_file=tmp_path / "web.pem", key_file=tmp_path / "web-key.pem", clock=clock
    )
    listener = TlsHttp(Starlette(), HostPort("127.0.0.1", 0), certificate=certificate)
    await listener.start()
    site = Site(tmp_path, ca, clock, listener)
    assert site.listener.check().health is Health.DEGRADED
    assert "not served" in site.listener.check().text
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await site.shown()
    put(tmp_path, ca.certificate())
    await site.until_it_says("is good until")
    assert (await site.get()).status_code == 404
    await listener.close()


async def test_a_certificate_that_nobody_renews_is_told_before_it_ends(site: Site) -> None:
    site.clock.jump(timedelta(minutes=56))
    check = site.listener.check()
    assert (check.health, "was not renewed in time" in check.text) == (Health.DEGRADED, True)


@pytest.mark.parametrize("in_tls", [False, True])
async def test_who_connects_and_says_nothing_is_not_waited_for(site: Site, in_tls: bool) -> None:
    silent = [await connected(site, in_tls=in_tls) for _ in range(20)]
    assert (await site.get()).text == "hello"
    async with asyncio.timeout(10):
        assert [await reader.read() for reader, _ in silent] == [b""] * 20
    for _, writer in silent:
        writer.close()


@pytest.mark.parametrize("in_tls", [False, True])
async def test_of_too_many_connections_the_oldest_are_ended(tmp_path: Path, in_tls: bool) -> None:
    async with served(tmp_path, most=8, patience=60.0) as site:
        silent = [await connected(site, in_tls=in_tls) for _ in range(20)]
        assert (await site.get()).text == "hello"
        async with asyncio.timeout(10):
            assert [await reader.read() for reader, _ in silent[:13]] == [b""] * 13
        assert not any(reader.at_eof() for reader, _ in silent[13:])
        for _, writer in silent:
            writer.close()


async def connected(site: Site, *, in_tls: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if not in_tls:
        return await asyncio.open_connection("127.0.0.1", site.port)
    return await asyncio.open_connection("127.0.0.1", site.port, ssl=site.ca.trust(), server_hostname="localhost")


async def test_a_connection_gets_one_answer(site: Site) -> None:
    reader, writer = await connected(site, in_tls=True)
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
    assert (await reader.read()).count(b"hello") == 1
    writer.close()


async def test_of_a_flood_a_hundred_connections_a_second_are_taken(site: Site) -> None:
    async def ends() -> None:
        reader, writer = await connected(site, in_tls=False)
        writer.write(b"this is no TLS\r\n")
        with suppress(ConnectionError):
            await reader.read()
        writer.close()

    begun = time.monotonic()
    await asyncio.gather(*(ends() for _ in range(40)))
    assert time.monotonic() - begun > 0.39


async def test_a_header_without_an_end_is_not_collected(site: Site) -> None:
    reader, writer = await connected(site, in_tls=True)
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000)
    assert (await reader.read()).startswith(b"HTTP/1.1 400")
    writer.close()
