"""Vault, where the settings name it, wired: one session for all that use it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

import structlog

from ca.keys.settings import KeySettings
from ca.settings import ServerSettings
from ca.vault.condition import VaultCondition
from ca.vault.metrics import VaultCollector
from ca.vault.ports import Vault
from ca.vault.settings import VaultSettings
from citadel._wire import admin_pb2
from citadel.clock import Clock
from citadel.errors import CitadelError, InvalidArgument, Reason, Unavailable
from citadel.extras import installing
from citadel.probes import Check
from citadel.repeated import Repeated

if TYPE_CHECKING:
    from ca.vault.client import VaultClient
    from ca.vault.logins import Login
    from ca.vault.session import VaultSession

_log = structlog.get_logger(__name__)

_LONGEST_WAIT: Final = 60.0  # seconds of a start


@dataclass(frozen=True, slots=True)
class Worry:
    """What somebody should look at, and since when, where that is known."""

    error: CitadelError
    since: datetime | None


class VaultAffairs:
    """The session, what keeps it, and how it is with it."""

    work: Sequence[asyncio.Task[None]] = ()  # what keeps it, where it is running

    def __init__(self, session: VaultSession, settings: VaultSettings, *, keys: str, clock: Clock) -> None:
        self._session = session
        self._settings = settings
        self._keys = keys
        self._clock = clock
        self._further: Callable[[], Worry | None] = lambda: None

    def watch(self, further: Callable[[], Worry | None]) -> None:
        """Say from now on also what `further` does: what is wrong with a key there that is needed."""
        self._further = further

    @property
    def vault(self) -> Vault:
        """Calls to Vault, logged in."""
        return self._session

    @property
    def acts(self) -> Mapping[tuple[str, str], int]:
        """What was done so far, and how it ended."""
        return self._session.acts

    async def until_heard(self, on_wait: Callable[[str], None]) -> None:
        """Return once logged in; for a Vault that is away it waits, and says so. Raises whatever waiting mends not.

        After a minute also that it is away: another server may reach it, which waits for the lease of this one.
        """
        repeated, gives_up_at = Repeated(clock=self._clock), self._clock.monotonic() + _LONGEST_WAIT
        while True:
            try:
                return await self._session.log_in()
            except Unavailable as error:
                if error.reason is not Reason.VAULT_UNAVAILABLE or self._clock.monotonic() >= gives_up_at:
                    raise
                on_wait(f"Vault at {self._settings.address}: {error}")
                if repeated.is_news(error.reason):
                    _log.warning("start waits for Vault", address=self._settings.address, error=str(error))
            await self._clock.sleep(self._session.wait)

    async def run(self) -> None:
        """Keep the session, for ever."""
        await self._session.run()

    async def close(self) -> None:
        """End the session."""
        await self._session.close()

    def condition(self) -> VaultCondition:
        """How it is."""
        own = self._session.worry()
        worry = Worry(own, self._session.since) if own is not None else self._further()
        return VaultCondition(
            address=self._settings.address,
            login=self._session.login,
            keys=self._keys,
            worry=worry.error if worry is not None else None,
            since=worry.since if worry is not None else None,
            token_until=self._session.token_until,
        )

    def status(self) -> admin_pb2.VaultStatus:
        """As `citadel-cli status` shows it."""
        return self.condition().status()

    def check(self) -> Check:
        """As `/ready` says it."""
        return self.condition().check()


@asynccontextmanager
async def running_vault(settings: ServerSettings, clock: Clock) -> AsyncIterator[VaultAffairs | None]:
    """What `vault_affairs` makes, kept within this."""
    affairs = vault_affairs(settings, clock)
    if affairs is None:
        yield None
        return
    running = asyncio.create_task(affairs.run())
    affairs.work = (running,)
    try:
        yield affairs
    finally:
        running.cancel()
        await asyncio.wait({running})
        await affairs.close()


def vault_affairs(settings: ServerSettings, clock: Clock) -> VaultAffairs | None:
    """What the section `vault` asks for, not yet logged in; `None` where there is none.

    Raises `InvalidArgument` (`config_invalid`) where what speaks to Vault is not installed, or its files are not good.
    """
    if settings.vault is None:
        return None
    return VaultAffairs(
        new_session(settings.vault, clock), settings.vault, keys=_what_is_kept_there(settings.keys), clock=clock
    )


def vault_collector(affairs: VaultAffairs | None) -> VaultCollector:
    """What is measured; the names are the same where there is no Vault."""
    if affairs is None:
        return VaultCollector(lambda: None, {})
    return VaultCollector(affairs.condition, affairs.acts)


def new_session(settings: VaultSettings, clock: Clock) -> VaultSession:
    """A session, not yet logged in. Raises as above."""
    client, login = new_client(settings, clock)
    from ca.vault.session import VaultSession  # noqa: PLC0415 - as what it is made of

    return VaultSession(client=client, login=login, clock=clock, draw=random.random)


def new_client(settings: VaultSettings, clock: Clock) -> tuple[VaultClient, Login]:
    """What speaks to Vault, and how it logs in. Raises as above."""
    try:
        # They need a library that is an extra.
        from ca.vault.client import VaultClient  # noqa: PLC0415
        from ca.vault.logins import login_of  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith(("ca.", "citadel.")):
            raise
        raise InvalidArgument(
            Reason.CONFIG_INVALID,
            f"the section vault needs {error.name.partition('.')[0]}, which is not installed",
            fix=installing("vault"),
        ) from error
    return VaultClient(settings), login_of(settings.login, clock=clock)


def validate_vault(settings: ServerSettings, clock: Clock) -> None:
    """Look at the files that the section `vault` names, without asking Vault. Raises `InvalidArgument`."""
    if settings.vault is None:
        return
    client, login = new_client(settings.vault, clock)
    try:
        login.secret.check()
        client.check(login.certificate)
    finally:
        client.close()


def _what_is_kept_there(keys: KeySettings) -> str:
    if keys.vault_transit is not None:
        return "made"
    return "sealed" if keys.vault_seal is not None else ""
