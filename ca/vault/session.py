"""Vault, logged in: the port over one connection, with a token that is kept alive."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import structlog

from ca.vault.client import VaultClient
from ca.vault.grant import Grant
from ca.vault.logins import Login
from ca.vault.pace import Pace
from ca.vault.ports import Answer
from citadel.clock import Clock
from citadel.config.types import format_duration
from citadel.errors import CitadelError, Reason, Unavailable
from citadel.repeated import Repeated
from citadel.waiting import news_or_time

# Vault itself cannot be asked, whatever token one has.
_AWAY: Final = frozenset({Reason.VAULT_UNAVAILABLE, Reason.VAULT_UNTRUSTED})
_LOOK: Final = 30.0  # seconds between looks at the token, so that trouble is known before something depends on it
# Vault that is away comes back unannounced, and asking costs nothing. Who is refused asks less: somebody must act.
_LONGEST_AWAY: Final = 10.0
_LONGEST_REFUSED: Final = 60.0
_DENIAL_STANDS: Final = 600.0  # seconds after the last one
_SHORTEST: Final = 1.0  # seconds between two looks
_LAST_WORD: Final = 2.0  # seconds for giving the token back

_log = structlog.get_logger(__name__)
_Result = TypeVar("_Result")


class VaultSession:
    """Fulfils `Vault`. `run` keeps the token; without it each call sees to that itself.

    A call that is refused is told apart by Vault's own look at the token: where Vault knows the token it is the policy,
    and where it does not there is one new log-in, and the call is made once more.
    """

    def __init__(self, *, client: VaultClient, login: Login, clock: Clock, draw: Callable[[], float]) -> None:
        """`draw` gives numbers from 0 up to 1, as `random.random` does."""
        self._client = client
        self._login = login
        self._clock = clock
        self._draw = draw
        self._pace = Pace(clock=clock, draw=draw)
        self._lock = asyncio.Lock()  # one log-in, renewal or look at a time, which all callers share
        self._look_now = asyncio.Event()
        self._grant: Grant | None = None
        self._trouble: CitadelError | None = None
        self._ending: CitadelError | None = None
        self._denial: tuple[CitadelError, str, float] | None = None
        self._told: CitadelError | None = None
        self._is_kept = False
        self._repeated = Repeated(clock=clock)
        self.since: datetime = clock.now()  # when `worry` came or went
        self.acts: Counter[tuple[str, str]] = Counter()  # what was done, and how it ended

    async def read(self, path: str) -> Answer:
        return await self._call(f"read {path}", lambda: self._client.read(path))

    async def list(self, path: str) -> Answer:
        return await self._call(f"list {path}", lambda: self._client.list(path))

    async def write(self, path: str, data: Mapping[str, Any]) -> Answer:
        return await self._call(f"write {path}", lambda: self._client.write(path, data))

    async def delete(self, path: str) -> None:
        await self._call(f"delete {path}", lambda: self._client.delete(path))

    def trouble(self) -> CitadelError | None:
        """Why no call would be answered now."""
        if self._trouble is None or (self._holds is not None and self._trouble.reason not in _AWAY):
            return None
        return self._trouble

    def worry(self) -> CitadelError | None:
        """What somebody should look at: trouble, a token that ends, or what the policy has lately not allowed."""
        if self._denial is not None and self._clock.monotonic() - self._denial[2] > _DENIAL_STANDS:
            self._denial = None
        return self._trouble or self._ending or (self._denial[0] if self._denial is not None else None)

    @property
    def login(self) -> str:
        """How it logs in."""
        return self._login.kind

    @property
    def token_until(self) -> datetime | None:
        """The end of the token, where there is a token and it has one."""
        held = self._holds
        if held is None or held.ends is None:
            return None
        return self._clock.now() + timedelta(seconds=held.ends - self._clock.monotonic())

    @property
    def wait(self) -> float:
        """In how many seconds it is tried again, where there is trouble."""
        return self._pace.wait

    async def log_in(self) -> None:
        """Have a token that Vault knows. Raises the trouble that is known, until `wait` is over, or a new one."""
        async with self._lock:
            if self._holds is not None and self.trouble() is None:
                return
            if self._trouble is not None and self._pace.wait > 0:
                raise self._trouble.with_traceback(None)
            await self._keep()

    async def run(self) -> None:
        """Look at the token now and then, renew it in time, and try again what failed; for ever."""
        self._is_kept = True
        try:
            while True:
                async with self._lock:
                    if self._pace.wait == 0:
                        self._look_now.clear()
                        with suppress(CitadelError):  # it is known as trouble
                            await self._keep()
                await self._until_due()
        finally:
            self._is_kept = False

    async def close(self) -> None:
        """Give a token back that was made for this session; not for long, since it also ends by itself."""
        held = self._holds
        if held is not None and self._login.makes_tokens:
            with suppress(CitadelError, TimeoutError):
                async with asyncio.timeout(_LAST_WORD):
                    await self._client.revoke(held.token)
        self._grant = self._client.token = None
        self._client.close()

    @property
    def _holds(self) -> Grant | None:
        """The token in use, while it lasts."""
        if self._grant is not None and self._grant.has_ended(self._clock.monotonic()):
            return None
        return self._grant

    async def _call(self, what: str, call: Callable[[], Awaitable[_Result]]) -> _Result:
        used = await self._granted()
        try:
            result = await call()
        except Unavailable as error:
            if error.reason is not Reason.VAULT_DENIED or not await self._was_spent(used):
                self._went_wrong(what, error)
                raise
            try:
                result = await call()
            except Unavailable as again:
                self._went_wrong(what, again)
                raise
        self.acts["call", "ok"] += 1
        if self._denial is not None and self._denial[1] == what:
            self._denial = None
            self._tell()
        return result

    async def _granted(self) -> Grant | None:
        """The token in use. Fails at once where it is known that it would be of no use, and `run` sees to that."""
        trouble = self.trouble()
        if trouble is not None and self._is_kept:
            raise trouble.with_traceback(None)
        if self._holds is None or trouble is not None:
            await self.log_in()
        return self._holds

    async def _was_spent(self, used: Grant | None) -> bool:
        """Whether Vault did not know this token any more; then there is another one now, or it is raised why not."""
        async with self._lock:
            if self._grant is used:
                await self._keep()
            elif self._holds is None and self._trouble is not None:
                raise self._trouble.with_traceback(None)
            return self._grant is not None and used is not None and self._grant.token != used.token

    async def _keep(self) -> None:
        try:
            await self._have_a_token()
        except CitadelError as error:
            self._trouble = error
            self._pace.failed(longest=_LONGEST_AWAY if error.reason in _AWAY else _LONGEST_REFUSED)
            self._tell()
            raise
        self._trouble = None
        self._pace.worked()
        self._tell()

    async def _have_a_token(self) -> None:
        held, now = self._holds, self._clock.monotonic()
        if held is None:
            await self._log_in(None)
        elif held.is_due(now):
            await self._renew(held)
        else:
            try:
                found = await self._client.look_up(held.token)
            except Unavailable as error:
                if error.reason is not Reason.VAULT_DENIED:
                    raise
                self._grant = None
                await self._log_in(None)
            else:
                self._grant = held.seen(found, now=now)

    async def _renew(self, held: Grant) -> None:
        """A new lease, or a new token where this one gets none or not as long a one."""
        if held.is_renewable:
            try:
                lease = await self._client.renew(held.token)
            except Unavailable as error:
                self.acts["renewal", error.reason.value] += 1
                if error.reason in _AWAY:
                    raise
            else:
                self.acts["renewal", "ok"] += 1
                renewed = held.renewed(lease, now=self._clock.monotonic(), draw=self._draw())
                if not held.has_shrunk(lease):
                    self._grant, self._ending = renewed, None
                    return
                self._grant = held = replace(renewed, due=held.due)
        await self._log_in(held)

    async def _log_in(self, held: Grant | None) -> None:
        """Another token than `held`, which stays in use where there is none."""
        try:
            token = await self._login.token(self._client)
            found = await self._looked_up(token)
        except CitadelError as error:
            self.acts["login", error.reason.value] += 1
            raise
        self.acts["login", "ok"] += 1
        now = self._clock.monotonic()
        fresh = Grant.of(token, found, now=now, draw=self._draw())
        self._ending = None
        if held is not None and held.token == token:  # nobody has put another one there yet
            fresh = replace(fresh, due=now + _LOOK)
            self._ending = Unavailable(
                Reason.VAULT_LOGIN_REFUSED,
                f"{self._login.shows} ends in {format_duration(timedelta(seconds=fresh.left(now)))}"
                " and cannot be renewed",
                fix="put another one there",
            )
        self._grant, self._client.token = fresh, token

    async def _looked_up(self, token: str) -> Mapping[str, Any]:
        try:
            return await self._client.look_up(token)
        except Unavailable as error:
            if error.reason is not Reason.VAULT_DENIED:
                raise
            if self._login.makes_tokens:  # it was made a moment ago
                raise Unavailable(error.reason, error.message, fix="attach the policy `default` to the role") from None
            raise Unavailable(
                Reason.VAULT_LOGIN_REFUSED,
                f"Vault does not take {self._login.shows}: it has ended, was revoked, or may not look at itself",
                fix="put another one there",
            ) from None

    async def _until_due(self) -> None:
        """Wait until there is something to do for the token, or until a call went wrong that did not before."""
        if self._trouble is not None:
            await self._clock.sleep(self._pace.wait)
            return
        await self._clock.sleep(_SHORTEST)
        held, pause = self._holds, _LOOK * (1 - self._draw() / 4)
        if held is None or held.due is not None:
            pause = min(pause, held.due - self._clock.monotonic() if held is not None and held.due is not None else 0.0)
        await news_or_time(self._look_now, pause, clock=self._clock)

    def _went_wrong(self, what: str, error: CitadelError) -> None:
        self.acts["call", error.reason.value] += 1
        if error.reason is Reason.VAULT_DENIED:
            self._denial = (error, what, self._clock.monotonic())
            self._tell()
        elif error.reason in _AWAY:
            self._look_now.set()  # one slow answer is no outage

    def _tell(self) -> None:
        """Say in the log what is new."""
        worry = self.worry()
        if (worry is None) != (self._told is None):
            self.since = self._clock.now()
        if worry is None and self._told is not None:
            self._repeated.is_over()
            _log.info("Vault serves this server again")
        self._told = worry
        if worry is None or not self._repeated.is_news(worry.reason if worry.reason in _AWAY else str(worry)):
            return
        say = _log.warning if worry.reason in _AWAY else _log.error
        until = self.token_until
        say(
            "trouble with Vault",
            reason=worry.reason,
            error=str(worry),
            token_until=until.isoformat(timespec="seconds") if until is not None else None,
        )
