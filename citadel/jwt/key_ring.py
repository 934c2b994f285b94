"""The keys of all issuers that the rules name, fetched in the background so that no request waits for them.

A request waits only for an issuer's very first keys, and for a key id that is new: then for one fetch that all such
requests share.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

import structlog

from citadel.clock import Clock
from citadel.errors import CitadelError, Reason, Unavailable
from citadel.jwt.jwks import IssuerKey, KeySet
from citadel.jwt.keys import FetchKeys, Holding, InlineKeys, IssuerStatus, KeySource
from citadel.jwt.settings import JwtRule
from citadel.jwt.validator import IssuerKeys
from citadel.printable import printable

_log = structlog.get_logger(__name__)


class FetchedKeys:
    """The keys of one issuer, from the network. Fulfils `citadel.jwt.validator.IssuerKeys`."""

    def __init__(
        self,
        source: KeySource,
        *,
        fetch: FetchKeys,
        clock: Clock,
        jitter: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        """Begins to fetch at once; needs a running loop, and `close` in the end. Calls `changed` for other keys."""
        self._source = source
        self._fetch = fetch
        self._clock = clock
        self._changed = changed
        self._held = Holding(jitter=jitter)
        self._since = clock.now()
        self._skipped: tuple[str, ...] = ()
        self._waiting: asyncio.Task[None] | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._closed = False
        self._begin()

    async def under(self, key_id: str) -> Sequence[IssuerKey]:
        held = self._held.keys
        if held is None:
            await self._end_of_fetch()
            held = self._keys()
        found = held.under(key_id)
        if found:
            return found
        if self._fetching is None and self._held.may_ask_for_unknown(now=self._clock.monotonic()):
            self._begin()
        await self._end_of_fetch()
        return self._keys().under(key_id)

    @property
    def as_of(self) -> float:
        """When, in monotonic time, the fetch began that brought the keys that are held."""
        return self._held.as_of

    def status(self) -> IssuerStatus:
        """For `/ready`."""
        count = len(self._held.keys.keys) if self._held.keys is not None else 0
        error = self._held.error
        return IssuerStatus(
            issuer=self._source.issuer,
            degraded=error is not None or not count,
            words=self._words(count, error),
            since=self._since,
            keys=count,
            next_try=self._next_try(),
        )

    async def close(self) -> None:
        """Fetch no more; who still holds these keys goes on with them."""
        self._closed = True
        tasks = [task for task in (self._waiting, self._fetching) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _keys(self) -> KeySet:
        if self._held.keys is None:
            raise Unavailable(
                Reason.JWKS_UNAVAILABLE,
                f"the keys of {self._source.issuer} were not had yet",
                fix="the agent's /ready and log say why; it goes on trying",
            )
        return self._held.keys

    async def _end_of_fetch(self) -> None:
        if self._fetching is not None:
            await asyncio.wait([self._fetching])  # not its own end if this request is cancelled

    def _begin(self) -> None:
        if self._closed:
            return
        if self._waiting is not None:
            self._waiting.cancel()
        self._held.begin(now=self._clock.monotonic())
        self._fetching = asyncio.create_task(self._fetch_once(), name=f"keys of {self._source.issuer}")

    async def _fetch_once(self) -> None:
        try:
            answer = await self._fetch(self._source)
        except CitadelError as error:
            self._failed(error)
        except Exception as error:  # noqa: BLE001 - whatever it was, the next try may go well, and nobody else would try
            self._failed(Unavailable(Reason.INTERNAL, type(error).__name__), defect=error)
        else:
            self._tell_skipped(answer.keys)
            if self._held.error is not None or self._held.keys is None:
                self._since = self._clock.now()
                _log.info("an issuer's keys are here", issuer=self._source.issuer, keys=len(answer.keys.keys))
            is_other = answer.keys != self._held.keys
            self._held.take(answer, now=self._clock.monotonic())
            if is_other:
                self._changed()
        self._fetching = None
        self._waiting = asyncio.create_task(self._fetch_when_due(), name=f"next keys of {self._source.issuer}")

    async def _fetch_when_due(self) -> None:
        await self._clock.sleep(self._held.due - self._clock.monotonic())
        self._waiting = None
        self._begin()

    def _failed(self, error: CitadelError, *, defect: Exception | None = None) -> None:
        if self._held.error is None:
            self._since = self._clock.now()
        if self._held.error is None or self._held.error.reason != error.reason:
            _log.warning(
                "an issuer's keys cannot be fetched",
                issuer=self._source.issuer,
                reason=error.reason.value,
                why=error.message,
                keys_kept=self._held.keys is not None,
                exc_info=defect,
            )
        self._held.fail(error, now=self._clock.monotonic())

    def _tell_skipped(self, keys: KeySet) -> None:
        if keys.skipped and keys.skipped != self._skipped:
            _log.warning("keys of an issuer are not used", issuer=self._source.issuer, why=list(keys.skipped[:10]))
        self._skipped = keys.skipped

    def _words(self, count: int, error: CitadelError | None) -> str:
        held = f"{count} key{'' if count == 1 else 's'}"
        if error is None:
            return held if count else "its keys are being fetched"
        kept = f"goes on with {held}" if count else "its tokens are refused"
        since = self._since.isoformat(timespec="seconds")
        return f"no new keys since {since} ({error.reason}: {printable(error.message, 300)}); {kept}"

    def _next_try(self) -> datetime:
        left = 0.0 if self._fetching is not None else max(0.0, self._held.due - self._clock.monotonic())
        return self._clock.now() + timedelta(seconds=left)


class IssuerKeyRing:
    """Fulfils `citadel.jwt.validator.KeyRing`: one set of keys for all rules that fetch alike, over reloads too."""

    def __init__(self, *, fetch: FetchKeys, clock: Clock, jitter: Callable[[], float]) -> None:
        """`jitter` gives numbers from 0 up to 1, as `random.random` does."""
        self._fetch = fetch
        self._clock = clock
        self._jitter = jitter
        self._fetched: dict[KeySource, FetchedKeys] = {}
        self._version = 0

    @property
    def version(self) -> int:
        """Another one whenever any issuer's keys have become others: what was concluded from them holds no longer."""
        return self._version

    def of(self, rule: JwtRule) -> IssuerKeys:
        return self.fetched(rule) if rule.jwks is None else InlineKeys(rule.jwks)

    def fetched(self, rule: JwtRule) -> FetchedKeys:
        """The keys of a rule whose issuer's come from the network."""
        source = KeySource.of(rule)
        if source not in self._fetched:
            self._fetched[source] = FetchedKeys(
                source, fetch=self._fetch, clock=self._clock, jitter=self._jitter, changed=self._count_change
            )
        return self._fetched[source]

    def statuses(self) -> tuple[IssuerStatus, ...]:
        """Each issuer whose keys come from the network."""
        return tuple(each.status() for each in self._fetched.values())

    async def keep_only(self, rules: Iterable[JwtRule]) -> None:
        """Forget issuers that none of these rules names: to be called when a policy was replaced."""
        wanted = {KeySource.of(rule) for rule in rules if rule.jwks is None}
        gone = [self._fetched.pop(source) for source in self._fetched.keys() - wanted]
        await asyncio.gather(*(each.close() for each in gone))

    async def close(self) -> None:
        """Fetch no more."""
        await self.keep_only(())

    def _count_change(self) -> None:
        self._version += 1
