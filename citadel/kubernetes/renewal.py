"""What opens the way to an API server, read anew while it is used: tokens end, and authorities are replaced."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog
from kubernetes.aio.client import ApiClient

from citadel.errors import CitadelError, Reason, Unavailable
from citadel.kubernetes.access import ACCOUNT, Access, read_access
from citadel.kubernetes.answers import words_of
from citadel.kubernetes.settings import ApiServerSettings

# kubelet replaces a service account's token when it has four fifths of its hour behind it.
_ACCOUNT_AGAIN: Final = 60.0  # seconds
# Tokens of cloud providers' commands, which are slow, end after a quarter of an hour or later.
_KUBECONFIG_AGAIN: Final = 300.0
_FAILED_AGAIN: Final = 60.0
_AT_MOST_EVERY: Final = 5.0  # seconds, however many calls are refused
_LONGEST: Final = 30.0  # seconds for a command
_SETTLES: Final = 0.2  # seconds in which whoever writes a file comes to its end

_log = structlog.get_logger(__name__)


class Session:
    """Connections that were made by one reading. Once there is a newer one they end with the last answer that is read.

    So nothing that works is cut off: a watch goes on until the API server ends it.
    """

    def __init__(self, access: Access, api: ApiClient) -> None:
        self.access = access
        self.api = api
        self._users = 0
        self._is_over = False

    @property
    def is_used(self) -> bool:
        """Whether somebody reads an answer."""
        return self._users > 0

    async def __aenter__(self) -> Self:
        self._users += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._users -= 1
        if self._is_over and not self._users:
            await self.close()

    async def retire(self) -> None:
        """There is a newer one."""
        self._is_over = True
        if not self._users:
            await self.close()

    async def close(self) -> None:
        """End every connection."""
        await self.api.close()  # type: ignore[no-untyped-call]  # the package types it in part


class Renewal:
    """Has the newest session. What cannot be read, or is being written just now, leaves the last good one."""

    has_synced: Final = True  # there is no beginning without one

    def __init__(
        self,
        settings: ApiServerSettings,
        first: Access,
        api: ApiClient,
        *,
        account: Path,
        now: Callable[[], float],
        settle: Callable[[], Awaitable[None]],
    ) -> None:
        """`settle` waits for whoever writes a file to come to its end."""
        self._settings = settings
        self._account = account
        self._now = now
        self._settle = settle
        self._every = _ACCOUNT_AGAIN if settings.kubeconfig is None else _KUBECONFIG_AGAIN
        self._session = Session(first, api)
        self._older: set[Session] = set()
        self._one_at_a_time = asyncio.Lock()
        self._looked = -_AT_MOST_EVERY
        self._next = now() + (_FAILED_AGAIN if first.names_nobody else self._every)
        self.trouble: CitadelError | None = None  # why it could not be read anew

    async def session(self) -> Session:
        """The newest, looked for now where it is time; meanwhile others go on with what is there."""
        if self._now() >= self._next and not self._one_at_a_time.locked():
            async with self._one_at_a_time:
                await self._look()
        return self._session

    async def is_replaced(self, session: Session) -> bool:
        """Whether there is a newer one than this, which was refused; that is looked for."""
        async with self._one_at_a_time:
            if self._session is session and self._now() - self._looked >= _AT_MOST_EVERY:
                await self._look()
        return self._session is not session

    async def close(self) -> None:
        """End all of it."""
        for each in (self._session, *self._older):
            await each.close()

    async def _look(self) -> None:
        self._looked = self._now()
        try:
            async with asyncio.timeout(_LONGEST):
                await self._read()
        except Exception as error:  # noqa: BLE001 - whatever a command or a file can make of it, what there is may be good
            self._failed(f"it takes longer than {_LONGEST:g} s" if isinstance(error, TimeoutError) else words_of(error))
        else:
            self.trouble = None
        # From its end: for those who waited while a command hung it was looked too, and they do not wait as long again.
        self._looked = self._now()
        self._next = self._looked + (self._every if self.trouble is None else _FAILED_AGAIN)

    def _failed(self, words: str) -> None:
        if self.trouble is None:
            _log.warning("what opens the way to the API server cannot be read again", error=words)
        named = self._settings.kubeconfig
        place = f"kubeconfig {named}" if named is not None else "the service account"
        self.trouble = Unavailable(Reason.CONFIG_INVALID, f"{place}: {words}; what was read before counts")

    async def _read(self) -> None:
        before = self._session.access
        fresh = await read_access(self._settings, account=self._account)
        if fresh.host != before.host:
            raise ValueError(f"{fresh.host} is another API server; restart for it")
        if fresh.names_nobody and not before.names_nobody:
            raise ValueError("it has neither a token nor a client certificate now, or its command gave none")
        if fresh == before:
            return
        if fresh.digests != before.digests:
            await self._settle()
        api = await asyncio.to_thread(_client_of, fresh)
        old, self._session = self._session, Session(fresh, api)
        self._older = {each for each in (*self._older, old) if each.is_used}
        await old.retire()


def _client_of(access: Access) -> ApiClient:
    """From the files as they were read. Raises where these have changed since, or not all of it is there."""
    api = access.client()
    access.check_whole()
    return api


async def renewal(
    settings: ApiServerSettings,
    *,
    account: Path = ACCOUNT,
    now: Callable[[], float] = time.monotonic,
    settle: Callable[[], Awaitable[None]] | None = None,
) -> Renewal:
    """The way to the API server that the settings name; nothing is sent yet. Raises as `read_access`."""
    first = await read_access(settings, account=account)
    api = await asyncio.to_thread(first.client)
    return Renewal(settings, first, api, account=account, now=now, settle=settle or partial(asyncio.sleep, _SETTLES))
