"""Sessions with a real Vault, with time in the hands of the tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from ca.vault.client import VaultClient
from ca.vault.logins import login_of
from ca.vault.session import VaultSession
from ca.vault.settings import VaultSettings
from citadel.errors import Unavailable
from tests.clock import FakeClock
from tests.openbao import OpenBao

_STEP: Final = 5.0  # seconds of the session's clock at a time
_PATIENCE: Final = 20.0


class Kept:
    """A session, and the clock that it goes by."""

    def __init__(self, bao: OpenBao, login: dict[str, Any], **others: Any) -> None:
        self.clock = FakeClock()
        section = {"address": bao.address, "ca_file": str(bao.ca_file), "login": login} | others
        self.settings = VaultSettings.model_validate(section)
        self.client = VaultClient(self.settings)
        login_by = login_of(self.settings.login, clock=self.clock)
        self.session = VaultSession(client=self.client, login=login_by, clock=self.clock, draw=lambda: 0.0)

    @property
    def logins(self) -> int:
        return self.session.acts["login", "ok"]

    async def pass_by(self, seconds: float) -> None:
        """Let `run` do what is due then."""
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end:
            await self.until_it_waits()  # not while a thread of its own is at it
            await self.clock.advance(min(_STEP, end - self.clock.monotonic()))
        await self.until_it_waits()

    async def until_it_waits(self) -> None:
        await self.until(lambda: self.clock.is_awaited)

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(_PATIENCE):
            while not is_so():
                await asyncio.sleep(0.002)

    async def reads(self) -> None:
        """A call that the policy `reads` allows."""
        await self.session.read("pki/config/issuers")


@asynccontextmanager
async def kept(bao: OpenBao, login: dict[str, Any], *, run: bool = False, **others: Any) -> AsyncIterator[Kept]:
    """A session, kept by its `run` where asked for."""
    one = Kept(bao, login, **others)
    running = asyncio.create_task(one.session.run()) if run else None
    try:
        if run:
            await one.until_it_waits()
        yield one
    finally:
        if running is not None:
            running.cancel()
            await asyncio.wait({running})
        await one.session.close()


def secret_in(file: Path, secret: str) -> Path:
    """A file with this secret, as an administrator puts it there."""
    file.touch(mode=0o600)
    file.write_text(f"{secret}\n")
    return file


def token_in(folder: Path, token: str) -> dict[str, Any]:
    """A log-in by this token."""
    return {"token": {"token_file": str(secret_in(folder / "token", token))}}


async def refused(call: Coroutine[Any, Any, object]) -> Unavailable:
    """What `call` raises."""
    with pytest.raises(Unavailable) as error:
        await call
    return error.value
