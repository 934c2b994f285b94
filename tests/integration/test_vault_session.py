"""Being logged in to Vault, and staying it: against the real one, with time in the hands of the tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ca.vault.client import VaultClient
from ca.vault.logins import login_of
from ca.vault.session import VaultSession
from ca.vault.settings import VaultSettings
from citadel.errors import Reason, Unavailable
from tests.clock import FakeClock
from tests.openbao import OpenBao, new_openbao

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    bao = new_openbao(tmp_path_factory.mktemp("openbao"))
    bao.pki("pki")
    bao.policy("reads", pki__config__issuers=["read"])
    yield bao
    bao.stop()


class Kept:
    """A session, and the clock that it goes by."""

    def __init__(self, bao: OpenBao, login: dict[str, Any], **others: Any) -> None:
        self.clock = FakeClock()
        section = {"address": bao.address, "ca_file": str(bao.ca_file), "login": login} | others
        self.settings = VaultSettings.model_validate(section)
        self.client = VaultClient(self.settings)
        self.session = VaultSession(
            client=self.client,
            login=login_of(self.settings.login, clock=self.clock),
            clock=self.clock,
            draw=lambda: 0.0,
        )

    async def pass_by(self, seconds: float) -> None:
        """Let `run` do what is due then."""
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end:
            await self.until(lambda: self.clock.is_awaited)  # not while a thread of its own is at it
            await self.clock.advance(min(5.0, end - self.clock.monotonic()))
        await self.until(lambda: self.clock.is_awaited)

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not is_so():
                await asyncio.sleep(0.002)

    async def reads(self) -> None:
        await self.session.read("pki/config/issuers")


@asynccontextmanager
async def kept(bao: OpenBao, login: dict[str, Any], *, run: bool = False, **others: Any) -> AsyncIterator[Kept]:
    one = Kept(bao, login, **others)
    running = asyncio.create_task(one.session.run()) if run else None
    try:
        if run:
            await one.until(lambda: one.clock.is_awaited)
        yield one
    finally:
        if running is not None:
            running.cancel()
            await asyncio.wait({running})
        await one.session.close()


def token_in(folder: Path, token: str) -> dict[str, Any]:
    file = folder / "token"
    file.touch(mode=0o600)
    file.write_text(f"{token}\n")
    return {"token": {"token_file": str(file)}}


async def refused(call: Any) -> Unavailable:
    with pytest.raises(Unavailable) as error:
        await call
    return error.value


async def test_logs_in_by_token(bao: OpenBao, tmp_path: Path) -> None:
    async with kept(bao, token_in(tmp_path, bao.token("reads"))) as one:
        await one.reads()


async def test_logs_in_by_approle_once_for_all_who_ask(bao: OpenBao, tmp_path: Path) -> None:
    async with kept(bao, bao.approle("once", tmp_path, "reads")) as one:
        await asyncio.gather(*(one.reads() for _ in range(20)))
        assert one.session.acts["login", "ok"] == 1
        assert one.session.acts["call", "ok"] == 20
        token = one.client.token or ""
        await one.session.close()
        with pytest.raises(Exception, match="bad token"):
            bao.root.auth.token.lookup(token)


async def test_what_the_policy_does_not_allow_is_told_from_a_token_that_is_spent(bao: OpenBao, tmp_path: Path) -> None:
    async with kept(bao, bao.approle("denied", tmp_path, "reads")) as one:
        error = await refused(one.session.write("pki/root/sign-intermediate", {}))
        assert error.reason is Reason.VAULT_DENIED
        assert "`update` on `pki/root/sign-intermediate`" in error.message
        assert one.session.acts["login", "ok"] == 1
        assert one.session.trouble() is None
        assert one.session.worry() is error
        bao.root.auth.token.revoke(one.client.token)
        await one.reads()
        assert one.session.acts["login", "ok"] == 2


async def test_renews_at_two_thirds_of_the_lease(bao: OpenBao, tmp_path: Path) -> None:
    async with kept(bao, bao.approle("renews", tmp_path, "reads", token_ttl="300s"), run=True) as one:
        token = one.client.token
        await one.pass_by(195)
        assert one.session.acts["renewal", "ok"] == 0
        await one.pass_by(10)
        assert one.session.acts["renewal", "ok"] == 1
        await one.pass_by(205)
        assert one.session.acts["renewal", "ok"] == 2
        assert (one.client.token, one.session.acts["login", "ok"]) == (token, 1)


async def test_a_wrong_secret_is_tried_less_and_less_and_the_file_is_read_again(bao: OpenBao, tmp_path: Path) -> None:
    login = bao.approle("wrong", tmp_path, "reads")
    file = Path(login["approle"]["secret_id_file"])
    good = file.read_text()
    file.write_text("00000000-0000-0000-0000-000000000000")
    async with kept(bao, login, run=True) as one:
        for _ in range(20):
            await one.pass_by(30)
        assert 11 <= one.session.acts["login", "vault_login_refused"] <= 16
        error = await refused(one.reads())
        assert error.reason is Reason.VAULT_LOGIN_REFUSED
        assert str(file) in error.message
        assert "00000000" not in error.message
        file.write_text(good)
        await one.pass_by(60)
        await one.reads()
