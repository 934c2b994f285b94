"""Vault, logged in: the port over one connection, with a token that is kept alive."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import structlog

from ca.vault.client import VaultClient
from ca.vault.denials import Denials
from ca.vault.grant import Grant
from ca.vault.keeper import AWAY, LOOK_SECONDS, TokenKeeper
from ca.vault.logins import Login
from ca.vault.ports import Answer
from citadel.clock import Clock
from citadel.errors import CitadelError, Reason, Unavailable
from citadel.pace import Pace
from citadel.repeated import Repeated
from citadel.unexpected import nothing_unexpected
from citadel.waiting import news_or_time

# Vault that is away comes back unannounced, and asking costs nothing. Who is refused asks less: somebody must act.
_LONGEST_AWAY: Final = 10.0
_LONGEST_REFUSED: Final = 60.0
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
        self._clock = clock
        self._draw = draw
        self._pace = Pace(clock=clock, draw=draw)
        self._lock = asyncio.Lock()  # one log-in, renewal or look at a time, which all callers share
        self._look_now = asyncio.Event()
        self._trouble: CitadelError | None = None
        self._denials = Denials(clock=clock)
        self._is_spent = False  # a call with the token was denied, and so is a look at it
        self._looks = self._last_good = 0  # looks at the token that were begun, and which of them was the last good one
        self._is_kept = False
        self._told: CitadelError | None = None
        self._repeated = Repeated(clock=clock)
        self.login = login.kind
        self.since: datetime = clock.now()  # when `worry` came or went
        self.acts: Counter[tuple[str, str]] = Counter()  # what was done, and how it ended
        self._keeper = TokenKeeper(client=client, login=login, clock=clock, draw=draw, acts=self.acts)

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
        return self._trouble if self._is_spent else self._hindrance()

    def worry(self) -> CitadelError | None:
        """What somebody should look at: trouble, a token that ends, or what the policy has lately not allowed."""
        return self._trouble or self._keeper.ending or self._denials.first()

    @property
    def token_until(self) -> datetime | None:
        """The end of the token, where there is a token and it has one."""
        held = self._keeper.held
        if held is None or held.ends is None:
            return None
        return self._clock.now() + timedelta(seconds=held.left(self._clock.monotonic()))

    @property
    def wait(self) -> float:
        """In how many seconds it is tried again, where there is trouble."""
        return self._pace.wait

    async def log_in(self) -> None:
        """Have a token that Vault knows. Raises the trouble that is known, until `wait` is over, or a new one."""
        async with self._lock:
            if self._keeper.held is not None and self.trouble() is None:
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
        """Give the token back; not for long, since it also ends by itself."""
        with suppress(CitadelError, TimeoutError):
            async with asyncio.timeout(_LAST_WORD):
                await self._keeper.give_back()
        self._client.close()

    async def _call(self, what: str, call: Callable[[], Awaitable[_Result]]) -> _Result:
        used, looks = await self._granted(), self._looks
        try:
            result = await call()
        except Unavailable as error:
            if error.reason is not Reason.VAULT_DENIED or not await self._was_spent(used, looks):
                self._went_wrong(what, error)
                raise
            try:
                result = await call()
            except Unavailable as again:
                self._went_wrong(what, again)
                raise
        self.acts["call", "ok"] += 1
        self._is_spent = False
        if self._denials.allowed(what):
            self._tell()
        return result

    def _hindrance(self) -> CitadelError | None:
        """Why no call is worth a try: there is no token, or Vault is away."""
        if self._trouble is None or (self._keeper.held is not None and self._trouble.reason not in AWAY):
            return None
        return self._trouble

    async def _granted(self) -> Grant | None:
        """The token in use. Fails at once where it is known that it would be of no use, and `run` sees to that."""
        trouble = self._hindrance()
        if trouble is not None and self._is_kept:
            raise trouble.with_traceback(None)
        if self._keeper.held is None or trouble is not None:
            await self.log_in()
        return self._keeper.held

    async def _was_spent(self, used: Grant | None, looks: int) -> bool:
        """Whether Vault did not know this token any more; then there is another one now, or it is raised why not.

        `looks` had been begun before the call: a good one since then has told already that it is the policy.
        """
        async with self._lock:
            held = self._keeper.held
            if held is None and self._trouble is not None:
                raise self._trouble.with_traceback(None)
            is_same = held is None or (used is not None and held.token == used.token)
            if self._pace.wait == 0 and is_same and self._last_good <= looks:
                await self._keep(is_spent=True)
            elif is_same and self._keeper.is_in_doubt and self._trouble is not None:
                self._is_spent = True
                raise self._trouble.with_traceback(None)
            held = self._keeper.held
            return held is not None and used is not None and held.token != used.token

    async def _keep(self, *, is_spent: bool = False) -> None:
        """`is_spent`: a call with the token in hand was denied."""
        self._looks = look = self._looks + 1
        try:
            with nothing_unexpected("the token of Vault", kind=Unavailable):
                await self._keeper.keep()
        except CitadelError as error:
            self._trouble = error
            self._is_spent = self._is_spent or (is_spent and self._keeper.is_in_doubt)
            self._pace.failed(longest=_LONGEST_AWAY if error.reason in AWAY else _LONGEST_REFUSED)
            self._tell()
            raise
        self._trouble, self._is_spent, self._last_good = None, False, look
        self._pace.worked()
        self._tell()

    async def _until_due(self) -> None:
        """Wait until there is something to do for the token, or until a call went wrong that did not before."""
        if self._trouble is not None:
            await self._clock.sleep(self._pace.wait)
            return
        await self._clock.sleep(_SHORTEST)
        held, pause = self._keeper.held, LOOK_SECONDS * (1 - self._draw() / 4)
        if held is not None and held.due is not None:
            pause = min(pause, held.due - self._clock.monotonic())
        await news_or_time(self._look_now, pause if held is not None else 0.0, clock=self._clock)

    def _went_wrong(self, what: str, error: CitadelError) -> None:
        self.acts["call", error.reason.value] += 1
        if error.reason is Reason.VAULT_DENIED:
            self._denials.add(what, error)
            self._tell()
        elif error.reason in AWAY:
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
        # An outage has many messages, and is one; so is a policy that lacks many paths.
        if worry is None or not self._repeated.is_news(worry.reason):
            return
        say, until = _log.warning if worry.reason in AWAY else _log.error, self.token_until
        say(
            "trouble with Vault",
            reason=worry.reason,
            error=str(worry),
            token_until=until.isoformat(timespec="seconds") if until is not None else None,
        )
