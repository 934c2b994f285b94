"""Where a request goes, and what is said to whom before it is known who that is: over real TLS on loopback."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import httpcore
import httpx
import pytest

from citadel.web.asking import AskError, Fault, get
from citadel.web.connections import GuardedConnections
from tests.issuer_server import Answer, IssuerServer, issuer_server, says
from tests.strangers import WebCa, put

NAME: Final = "issuer.test"


class WrongEndError(Exception):
    """Raised by a check."""


@pytest.fixture(scope="module")
def ca() -> WebCa:
    return WebCa()


@pytest.fixture
def tls(ca: WebCa, tmp_path: Path) -> ssl.SSLContext:
    """What a server shows that is called issuer.test."""
    return server_side(ca, tmp_path, NAME)


@pytest.fixture
async def server(tls: ssl.SSLContext) -> AsyncIterator[IssuerServer]:
    async with issuer_server(tls) as server:
        server.answers["/"] = says(b"{}")
        yield server


@pytest.fixture
def guarded(ca: WebCa) -> Callable[..., GuardedConnections]:
    def make(*addresses: str, **more: Any) -> GuardedConnections:
        async def resolve(_host: str, _port: int) -> Sequence[str]:
            return addresses or ["127.0.0.1"]

        return GuardedConnections(resolve=resolve, tls=ca.trust(), allow_private=True, **more)

    return make


def server_side(ca: WebCa, folder: Path, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*put(folder, ca.certificate(name)))
    return context


async def refuse(connection: ssl.SSLObject) -> None:
    raise WrongEndError(connection.version())


async def asked(connections: GuardedConnections, url: str) -> bytes:
    return (await get(connections.open, url, judge=lambda *_: None, most_bytes=100)).body


async def test_the_check_sees_the_other_end_before_it_is_asked(
    server: IssuerServer, guarded: Callable[..., GuardedConnections]
) -> None:
    seen: list[tuple[int, object]] = []

    async def look(connection: ssl.SSLObject) -> None:
        seen.append((len(server.asked), connection.getpeercert()))

    assert await asked(guarded(check=look), f"https://{NAME}:{server.port}/") == b"{}"
    ((before, certificate),) = seen
    assert before == 0
    assert certificate["subjectAltName"] == (("DNS", NAME),)  # type: ignore[index]
    assert server.asked[0].headers["connection"] == "close"


async def test_whoever_the_check_refuses_is_not_asked_nor_anybody_after(
    server: IssuerServer, guarded: Callable[..., GuardedConnections]
) -> None:
    refused: list[ssl.SSLObject] = []

    async def refuse_all(connection: ssl.SSLObject) -> None:
        refused.append(connection)
        await refuse(connection)

    url = f"https://{NAME}:{server.port}/"
    with pytest.raises(WrongEndError, match="TLSv1"):
        await asked(guarded("127.0.0.1", "127.0.0.2", check=refuse_all), url + "refused")
    await asked(guarded(), url)  # by then the server has read whatever came before
    assert (len(refused), server.paths) == (1, ["/"])


async def test_where_there_is_a_check_nothing_is_said_in_plain_text(guarded: Callable[..., GuardedConnections]) -> None:
    async with issuer_server() as plain:
        with pytest.raises(NotImplementedError):
            await asked(guarded(check=refuse), f"http://{NAME}:{plain.port}/")
        assert plain.asked == []


async def test_an_address_with_the_wrong_certificate_leads_to_the_next(
    server: IssuerServer, guarded: Callable[..., GuardedConnections], ca: WebCa, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = IssuerServer()
    tls = server_side(ca, tmp_path / "other", "other.test")
    async with await asyncio.start_server(other.serve, "127.0.0.2", server.port, ssl=tls):
        url = f"https://{NAME}:{server.port}/"
        assert await asked(guarded("127.0.0.2", "127.0.0.3", "127.0.0.1"), url) == b"{}"
        assert (other.asked, server.paths) == ([], ["/"])
        with pytest.raises(AskError, match="certificate"):
            await asked(guarded("127.0.0.2"), url)
        assert other.asked == []


async def test_a_handshake_that_was_given_up_leaves_no_connection(guarded: Callable[..., GuardedConnections]) -> None:
    greeted, closed = asyncio.Event(), asyncio.Event()

    async def stares(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        greeted.set()
        while await reader.read(65536):
            pass
        closed.set()
        writer.close()

    async with await asyncio.start_server(stares, "127.0.0.1", 0) as silent:
        task = asyncio.create_task(asked(guarded(), f"https://{NAME}:{silent.sockets[0].getsockname()[1]}/"))
        await greeted.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(closed.wait(), 20)


async def test_what_tls_finds_wrong_after_the_handshake_is_the_networks_fault(
    server: IssuerServer, guarded: Callable[..., GuardedConnections]
) -> None:
    async def tampers(writer: asyncio.StreamWriter) -> None:
        record = b"\x17\x03\x03\x00\x20" + bytes(32)  # application data that no key of this connection has sealed
        os.write(writer.get_extra_info("socket").fileno(), record)

    server.answers["/"] = tampers
    with pytest.raises(AskError, match=r"the connection broke: .*SSL") as refusal:
        await asked(guarded(), f"https://{NAME}:{server.port}/")
    assert refusal.value.fault is Fault.NETWORK


async def test_a_name_that_tls_cannot_ask_for(server: IssuerServer, guarded: Callable[..., GuardedConnections]) -> None:
    with pytest.raises(httpcore.ConnectError):
        async with guarded().open(httpx.URL(f"https://.{NAME}:{server.port}/")):
            pass


async def test_a_silent_address_hides_no_other(
    server: IssuerServer, guarded: Callable[..., GuardedConnections]
) -> None:
    async def stares(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    url = f"https://{NAME}:{server.port}/"
    async with await asyncio.start_server(stares, "127.0.0.2", server.port):
        ask = guarded("127.0.0.2", "127.0.0.1", connect_seconds=0.1)
        assert await asyncio.wait_for(asked(ask, url), 20) == b"{}"
        with pytest.raises(AskError, match="no answer in time"):
            await asked(guarded("127.0.0.2", connect_seconds=0.1), url)


async def _says_wait(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n" * 10_000)
        await writer.drain()


async def _crumbles(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1\r\nx\r\n" * 10_000)
        await writer.drain()


@pytest.mark.parametrize(("answer", "words"), [(_says_wait, "more than an answer has"), (_crumbles, "10000 pieces")])
async def test_of_what_comes_without_end_little_is_read_and_others_have_their_turns(
    server: IssuerServer, guarded: Callable[..., GuardedConnections], answer: Answer, words: str
) -> None:
    server.answers["/"] = answer
    longest = 0.0

    async def others() -> None:
        nonlocal longest
        while True:
            before = time.process_time()  # how busy the machine is otherwise does not count
            await asyncio.sleep(0)
            longest = max(longest, time.process_time() - before)

    url, running = f"https://{NAME}:{server.port}/", asyncio.create_task(others())
    with pytest.raises(AskError, match=words):
        await asyncio.wait_for(get(guarded().open, url, judge=lambda *_: None, most_bytes=1024 * 1024), 20)
    running.cancel()
    assert longest < 0.05
