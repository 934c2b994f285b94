"""Answers at Vault's address that are none of Vault's: refused by name, and no end of what keeps the session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, cast

import pytest

from ca.upstream.settings import VaultPkiSettings
from ca.upstream.vault.engine import PkiEngine
from ca.upstream.vault.keeper import VaultKeeper
from ca.upstream.vault.view import EngineView
from ca.vault.answers import MOST_BYTES
from ca.vault.client import VaultClient
from ca.vault.logins import login_of
from ca.vault.ports import Answer
from ca.vault.session import VaultSession
from ca.vault.settings import VaultSettings
from citadel.errors import CitadelError, Reason, Unavailable
from tests.certificates import A_TEST
from tests.clock import FakeClock
from tests.vault_sessions import token_in

GOOD: Final = b'{"data": {"ttl": 3600, "renewable": true}, "auth": null, "warnings": null}'
_PATIENCE: Final = 20.0


class PanicError(BaseException):
    """As what is written in Rust raises it."""


def ok(body: bytes) -> list[bytes]:
    return [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body]


class Odd:
    """A session with what answers `answer` to everything, each piece of it in turn."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.answer = ok(GOOD)
        self.asked = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            for piece in self.answer:
                writer.write(piece)
                await writer.drain()
        writer.close()

    @asynccontextmanager
    async def session(self, folder: Path) -> AsyncIterator[VaultSession]:
        async with await asyncio.start_server(self.serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            section = {"address": f"http://127.0.0.1:{port}", "login": token_in(folder, "hvs.one"), "timeout": "10s"}
            settings = VaultSettings.model_validate(section)
            login = login_of(settings.login, clock=self.clock)
            session = VaultSession(client=VaultClient(settings), login=login, clock=self.clock, draw=lambda: 0.0)
            running = asyncio.create_task(session.run())
            try:
                await self.until(lambda: self.clock.is_awaited or running.done())
                yield session
                assert not running.done(), "it is kept whatever is answered"
            finally:
                running.cancel()
                await asyncio.wait({running})
                await session.close()

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(_PATIENCE):
            while not is_so():
                await asyncio.sleep(0.002)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (ok(b'{"data": {"ttl": "1h"}}'), "no number"),
        (ok(b'{"data": {"ttl": true}}'), "no number"),
        (ok(b'{"data": {"ttl": NaN}}'), "no number"),
        (ok(b'{"data": [1]}'), "is not Vault"),
        (ok(b'{"data": "text"}'), "is not Vault"),
        (ok(b'{"data": {"ttl": 3600}, "warnings": 5}'), "is not Vault"),
        (ok(b'{"data": {"ttl": 3600}, "warnings": [{}]}'), "is not Vault"),
        (ok(b"[" * 100_000), "is not Vault"),
        ([b"HTTP/1.1 403 No\r\n\r\n", b'{"errors": [[1]]}'], "is not Vault"),
        ([b"HTTP/1.1 200 OK\r\n\r\n", *[b" " * 65536] * (2 * MOST_BYTES // 65536)], "bytes to say"),
        (
            [b"HTTP/1.1 307 There\r\nLocation: /v1/x\r\n\r\n", *[b" " * 65536] * (2 * MOST_BYTES // 65536)],
            "bytes to say",
        ),
        ([b"HTTP/1.1 307 There\r\nLocation: https://[::1\r\nContent-Length: 0\r\n\r\n"], "elsewhere"),
    ],
    ids=lambda value: repr(value)[:60],
)
async def test_an_odd_answer_is_refused_and_a_good_one_is_taken_after_it(
    tmp_path: Path, answer: list[bytes], said: str
) -> None:
    odd = Odd(FakeClock())
    odd.answer = answer
    async with odd.session(tmp_path) as session:
        trouble = session.trouble()
        assert trouble is not None
        assert (trouble.reason, said in trouble.message) == (Reason.VAULT_REFUSED, True), trouble
        odd.answer, asked = ok(GOOD), odd.asked
        await odd.clock.advance(60)
        await odd.until(lambda: odd.asked > asked and session.trouble() is None)


@pytest.mark.parametrize("ttl", [b"1e999", b"1" + b"0" * 400, b"9223372036854775807"])
async def test_a_lease_beyond_all_clocks_is_a_long_one(tmp_path: Path, ttl: bytes) -> None:
    odd = Odd(FakeClock())
    odd.answer = ok(b'{"data": {"ttl": %s}}' % ttl)
    async with odd.session(tmp_path) as session:
        assert session.token_until is not None
        assert session.token_until - odd.clock.now() > timedelta(days=365 * 50)


async def test_what_nobody_expected_of_a_log_in_is_a_refusal_as_others_and_tried_again(tmp_path: Path) -> None:
    clock, tries = FakeClock(), 0
    settings = VaultSettings.model_validate({"address": "http://127.0.0.1:1", "login": token_in(tmp_path, "hvs.one")})

    class Faulty(VaultClient):
        async def look_up(self, token: str) -> Any:
            nonlocal tries
            tries += 1
            raise KeyError(token) if tries == 1 else PanicError(token)

    login = login_of(settings.login, clock=clock)
    session = VaultSession(client=Faulty(settings), login=login, clock=clock, draw=lambda: 0.0)
    running = asyncio.create_task(session.run())
    async with asyncio.timeout(_PATIENCE):
        while tries < 3 and not running.done():
            await asyncio.sleep(0.002)
            await clock.advance(10)
    trouble = session.trouble()
    assert isinstance(trouble, Unavailable)
    assert trouble.reason is Reason.INTERNAL
    assert "hvs.one" not in str(trouble)
    assert not running.done()
    running.cancel()
    await asyncio.wait({running})


async def test_what_nobody_expected_of_an_engine_is_its_trouble() -> None:
    class Faulty:
        async def read(self, path: str) -> Answer:
            raise PanicError(path)

        list = read

        async def write(self, path: str, data: object) -> Answer:  # noqa: ARG002 - of the port
            raise PanicError(path)

        async def delete(self, path: str) -> None:
            raise PanicError(path)

        def trouble(self) -> CitadelError | None:
            return None

    engine = PkiEngine(Faulty(), mount="pki")
    look = await EngineView(engine, settings=VaultPkiSettings(), trust_domain=A_TEST, clock=FakeClock()).look([])
    assert look.trouble is not None
    assert look.trouble.reason is Reason.INTERNAL


async def test_what_nobody_expected_of_a_look_is_no_end_of_looking() -> None:
    looks: list[float] = []

    class Faulty:
        mount = "pki"
        view = EngineView(cast("Any", None), settings=VaultPkiSettings(), trust_domain=A_TEST, clock=FakeClock())

        async def look(self) -> None:
            looks.append(clock.monotonic())
            raise KeyError if len(looks) == 1 else PanicError

    clock, none = FakeClock(), cast("Any", None)
    minute = timedelta(minutes=1)
    keeper = VaultKeeper(
        upstream=cast("Any", Faulty()), authorities=none, acts=none, poll=minute, lifetime=minute, clock=clock
    )
    running = asyncio.create_task(keeper.run())
    await clock.advance(150)
    assert (looks, running.done()) == ([0, 60, 120], False)
    running.cancel()
    await asyncio.wait({running})
